"""A verifier of certificates: certifier.py PEM. Lets in who has this one. Says where it listens, then what it is asked; ends when standard input does."""
import ssl
import sys

import Glacier2
import Ice


class Certifier(Glacier2.SSLPermissionsVerifier):
    def authorize(self, info, current):
        with open(sys.argv[1]) as file:
            known = ssl.PEM_cert_to_DER_cert(file.read())
        if not info.certs:
            return (False, "who are you?")
        is_known = ssl.PEM_cert_to_DER_cert(info.certs[0]) == known
        print(info.remoteHost, info.localHost, info.remotePort > 0, info.localPort > 0, bool(info.cipher), flush=True)
        return (is_known, "" if is_known else "somebody else")


with Ice.initialize() as communicator:
    adapter = communicator.createObjectAdapterWithEndpoints("", "tcp -h 127.0.0.1")
    print(adapter.add(Certifier(), Ice.stringToIdentity("certifier")), flush=True)
    adapter.activate()
    sys.stdin.read()
