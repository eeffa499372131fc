"""A server of ZeroC's Ice that a node starts: object.py ADAPTER IDENTITY OPTION... Ends when its process object is asked to."""
import sys

import Ice


class Echo(Ice.Object):
    def ice_ping(self, current=None):
        current.adapter.getCommunicator().getLogger().trace("Echo", "is pinged")

    def ice_ids(self, current=None):
        return ["::Demo::Echo", "::Ice::Object"]

    def ice_id(self, current=None):
        return "::Demo::Echo"

    def ice_isA(self, of, current=None):
        return of in self.ice_ids()


with Ice.initialize(sys.argv) as communicator:
    adapter = communicator.createObjectAdapter(sys.argv[1])
    adapter.add(Echo(), Ice.stringToIdentity(sys.argv[2]))
    adapter.activate()
    print("up", flush=True)
    communicator.waitForShutdown()
    print("asked to end", flush=True)
