"""The server of the recorded conversations: server.py OPTION... Its adapter, and the identity of its object, are what the configuration says."""
import sys

import Ice


class Echo(Ice.Object):
    def ice_ids(self, current=None):
        return ["::Demo::Echo", "::Ice::Object"]

    def ice_id(self, current=None):
        return "::Demo::Echo"


with Ice.initialize(sys.argv) as communicator:
    properties = communicator.getProperties()
    # One of the recorded properties, which the recorded server has set itself.
    properties.setProperty("Ice.AcceptClassCycles", "1")
    identity = properties.getPropertyWithDefault("Demo.Identity", "echo")
    adapter = communicator.createObjectAdapter("EchoAdapter")
    adapter.add(Echo(), Ice.stringToIdentity(identity))
    print("server up", flush=True)
    adapter.activate()
    communicator.waitForShutdown()
