"""A server of ZeroC's Ice that a node starts: object.py ADAPTER IDENTITY OPTION... Ends when its process object is asked to.

With property Hold it takes up no properties until there is a file of that name. With property Find it looks for that object until it answers."""
import os
import sys
import threading
import time

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


class Hold(Ice.PropertiesAdminUpdateCallback):
    def __init__(self, path):
        self.path = path

    def updated(self, changes):
        print("asked to take up properties", flush=True)
        while not os.path.exists(self.path):
            time.sleep(0.01)


def find(communicator, wanted):
    while True:
        try:
            communicator.stringToProxy(wanted).ice_ping()
            print("found", wanted, flush=True)
            return
        except Ice.CommunicatorDestroyedException:
            return
        except Ice.Exception:
            time.sleep(0.1)


with Ice.initialize(sys.argv) as communicator:
    hold = communicator.getProperties().getProperty("Hold")
    if hold:
        communicator.findAdminFacet("Properties").addUpdateCallback(Hold(hold))
    adapter = communicator.createObjectAdapter(sys.argv[1])
    adapter.add(Echo(), Ice.stringToIdentity(sys.argv[2]))
    adapter.activate()
    print("up", flush=True)
    wanted = communicator.getProperties().getProperty("Find")
    if wanted:
        threading.Thread(target=find, args=(communicator, wanted), daemon=True).start()
    communicator.waitForShutdown()
    print("asked to end", flush=True)
