"""A server of ZeroC's Ice: server.py SLICE ENDPOINTS PROPERTY... Prints its proxy; ends when standard input does."""
import sys
import threading
import time

import Ice

Ice.loadSlice(sys.argv[1])
import Demo


class Echo(Demo.Echo):
    def __init__(self):
        self.lock = threading.Lock()
        self.numbers = []

    def say(self, text, current):
        return text

    def fail(self, reason, current):
        raise Demo.Refused(reason)

    def log(self, text, current):
        with self.lock:
            self.numbers.append(int(text))

    def logged(self, current):
        # Its threads may have taken them in any order.
        with self.lock:
            return "".join("%d " % number for number in sorted(self.numbers))

    def sleep(self, ms, current):
        future = Ice.Future()

        def later():
            time.sleep(ms / 1000)
            future.set_result(None)

        threading.Thread(target=later, daemon=True).start()
        return future

    def callMe(self, sink, times, current):
        sink = sink.ice_fixed(current.con)
        for number in range(times):
            sink.tell("call %d" % number)


data = Ice.InitializationData()
data.properties = Ice.createProperties(sys.argv[3:])
# As many as may call back over their connections at the same time.
data.properties.setProperty("Ice.ThreadPool.Server.Size", "4")
with Ice.initialize(data) as communicator:
    adapter = communicator.createObjectAdapterWithEndpoints("A", sys.argv[2])
    proxy = adapter.add(Echo(), Ice.stringToIdentity("echo"))
    adapter.activate()
    print(proxy, flush=True)
    sys.stdin.read()
