"""A client of ZeroC's Ice: client.py SLICE PROXY PROPERTY... Calls everything that Demo.ice has, and says what is not as it should be."""
import sys
import time

import Ice

Ice.loadSlice(sys.argv[1])
import Demo


def refused(call, exception):
    try:
        call()
    except exception as error:
        return error
    raise AssertionError("no " + exception.__name__)


class Sink(Demo.Sink):
    def __init__(self):
        self.told = []

    def tell(self, text, current):
        self.told.append(text)


data = Ice.InitializationData()
data.properties = Ice.createProperties(sys.argv[3:])
with Ice.initialize(data) as communicator:
    base = communicator.stringToProxy(sys.argv[2])
    echo = Demo.EchoPrx.checkedCast(base)
    assert echo, "not an Echo"
    assert Demo.SinkPrx.checkedCast(base) is None
    assert echo.ice_id() == "::Demo::Echo"
    assert echo.ice_ids() == ["::Demo::Echo", "::Ice::Object"], echo.ice_ids()
    # Long texts are compressed where the endpoint says so, in both directions.
    for text in ["", "häll\u00f6", "a" * 254, "ab" * 200_000, "".join(map(chr, range(32, 10_000)))]:
        assert echo.say(text) == text
        old = Demo.EchoPrx.uncheckedCast(echo.ice_encodingVersion(Ice.Encoding_1_0))
        assert old.say(text) == text
    error = refused(lambda: echo.fail("because"), Demo.Refused)
    assert error.reason == "because"
    nobody = base.ice_identity(Ice.stringToIdentity("no/body"))
    error = refused(nobody.ice_ping, Ice.ObjectNotExistException)
    assert (error.id.name, error.id.category, error.operation) == ("body", "no", "ice_ping")
    error = refused(base.ice_facet("f").ice_ping, Ice.FacetNotExistException)
    assert error.facet == "f"
    unknown = Demo.SinkPrx.uncheckedCast(base)
    error = refused(lambda: unknown.tell(""), Ice.OperationNotExistException)
    assert error.operation == "tell"
    oneway = Demo.EchoPrx.uncheckedCast(base.ice_oneway())
    batch = Demo.EchoPrx.uncheckedCast(base.ice_batchOneway())
    for number in range(20):
        oneway.log("%d " % number)
    for number in range(20, 40):
        batch.log("%d " % number)
    batch.ice_flushBatchRequests()
    expected = "".join("%d " % number for number in range(40))
    assert echo.logged() == expected, echo.logged()
    begin = time.time()
    for sleeping in [echo.sleepAsync(300) for _ in range(20)]:
        sleeping.result()
    assert time.time() - begin < 5, "one after the other"
    sink = Sink()
    adapter = communicator.createObjectAdapter("")
    proxy = Demo.SinkPrx.uncheckedCast(adapter.addWithUUID(sink))
    echo.ice_getConnection().setAdapter(adapter)
    echo.callMe(proxy, 3)
    assert sink.told == ["call 0", "call 1", "call 2"], sink.told
    # Closed in good order, and opened again by the next call.
    echo.ice_getConnection().close(Ice.ConnectionClose.GracefullyWithWait)
    echo.ice_ping()
    # What is too large ends the connection, and nothing else.
    refused(lambda: echo.say("x" * 2_000_000), Ice.LocalException)
    assert echo.say("again") == "again"
    info = echo.ice_getConnection().getInfo()
    print("done", "ssl" if hasattr(info, "underlying") and info.underlying else "tcp", flush=True)
    if "--wait" in sys.argv:
        closed = []
        echo.ice_getConnection().setCloseCallback(lambda connection: closed.append(1))
        sys.stdin.read()
