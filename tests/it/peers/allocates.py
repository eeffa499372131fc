"""Allocates objects as a client of IceGrid: allocates.py LOCATOR USER. Prints what comes of it, a line each.

The grid has objects a1 and a2 (::Demo::Echo), one by one; b1 and b2 (::Demo::B) of a server that is had as a whole; c (::Demo::C) of one that
runs for a session.
"""
import sys
import time

import Ice
import IceGrid


def say(*words):
    print(*words, flush=True)


def tried(what):
    try:
        result = what()
        return communicator.proxyToString(result) if isinstance(result, Ice.ObjectPrx) else result
    except IceGrid.AllocationTimeoutException:
        return "time out"
    except IceGrid.AllocationException as error:
        return error.reason
    except Ice.Exception as error:
        return type(error).__name__


def by_id(session, name):
    return tried(lambda: session.allocateObjectById(Ice.stringToIdentity(name)))


def by_type(session, of):
    return tried(lambda: session.allocateObjectByType(of))


def release(session, name):
    return tried(lambda: session.releaseObject(Ice.stringToIdentity(name)))


def waits(session, name):
    return session.allocateObjectByIdAsync(Ice.stringToIdentity(name))


with Ice.initialize(["--Ice.Default.Locator=" + sys.argv[1]]) as communicator:
    locator = IceGrid.LocatorPrx.checkedCast(communicator.getDefaultLocator())
    query, registry = locator.getLocalQuery(), locator.getLocalRegistry()

    def begin(name):
        # A connection of its own each.
        at = IceGrid.RegistryPrx.uncheckedCast(registry.ice_connectionId(name))
        session = IceGrid.SessionPrx.uncheckedCast(at.createSession(sys.argv[2], "secret").ice_connectionId(name))
        session.ice_getConnection().setACM(registry.getSessionTimeout(), Ice.Unset, Ice.ACMHeartbeat.HeartbeatAlways)
        return session

    a, b, c = begin("a"), begin("b"), begin("c")
    say(a.ice_ids())
    say("nobody finds", query.findObjectById(Ice.stringToIdentity("a1")), query.findAllObjectsByType("::Demo::Echo"))
    say("nothing", by_id(a, "nope"), by_id(a, "echo"), by_type(a, "::Nope"), by_type(a, "::Demo::Plain"))
    say("nothing", release(a, "nope"), release(a, "echo"), release(a, "a1"))
    say("takes", by_id(a, "a1"), by_id(a, "a1"))
    b.setAllocationTimeout(0)
    say("taken", by_id(b, "a1"), release(b, "a1"))
    b.setAllocationTimeout(300)
    say("taken", by_id(b, "a1"))
    say("takes", by_type(b, "::Demo::Echo"), by_type(b, "::Demo::Echo"))
    b.setAllocationTimeout(-1)
    first, second = waits(c, "a1"), None
    time.sleep(0.2)
    second = waits(b, "a1")
    time.sleep(0.2)
    say("wait", first.done(), second.done())
    say("released", release(a, "a1"), tried(first.result), second.done())
    say("ends", tried(c.destroy), tried(second.result))
    d, e = begin("d"), begin("e")
    third = waits(d, "a1")
    time.sleep(0.2)
    say("ends", tried(d.destroy), tried(third.result))
    third = waits(e, "a1")
    time.sleep(0.2)
    b.ice_getConnection().close(Ice.ConnectionClose.Forcefully)
    say("is gone", tried(third.result))
    e.setAllocationTimeout(0)
    say("whole", by_id(a, "b1"), by_id(e, "b2"), by_type(e, "::Demo::B"), by_type(a, "::Demo::B"))
    say("whole", release(a, "b1"), by_id(e, "b2"), release(a, "b2"), by_id(e, "b2"))
    admin = registry.createAdminSession("me", "secret").getAdmin()
    say("before", admin.getServerState("C"), tried(lambda: locator.findAdapterById("C.Echo")))
    say(tried(lambda: admin.startServer("C")))
    say("takes", by_id(a, "c"), admin.getServerState("C"))
    say("found", communicator.stringToProxy("c @ C.Echo").ice_ping(), admin.getServerState("C"), by_id(e, "c"))
    e.setAllocationTimeout(-1)
    fourth = waits(e, "c")
    say("released", release(a, "c"), tried(fourth.result), admin.getServerState("C"))
    e.destroy()
    limit = time.time() + 60
    while admin.getServerState("C") != IceGrid.ServerState.Inactive and time.time() < limit:
        time.sleep(0.1)
    say("after", admin.getServerState("C"), tried(lambda: locator.findAdapterById("C.Echo")), tried(e.keepAlive))
