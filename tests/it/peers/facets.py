"""Looks at the admin objects of a node and of a registry: facets.py LOCATOR NODE SERVER. Prints what it finds, a line each."""
import queue
import sys

import Ice
import IceGrid

heard = queue.Queue()


def say(*words):
    print(*words, flush=True)


def tried(what):
    try:
        return what()
    except Ice.Exception as error:
        return type(error).__name__


class Logger(Ice.RemoteLogger):
    def init(self, prefix, messages, current):
        heard.put(("init", len(messages)))

    def log(self, message, current):
        heard.put(("log", message.message))


def hears_of(user):
    while True:
        what, text = heard.get(timeout=60)
        if what == "log" and user in text:
            return True


with Ice.initialize(["--Ice.Default.Locator=" + sys.argv[1]]) as communicator:
    locator = IceGrid.LocatorPrx.checkedCast(communicator.getDefaultLocator())
    registry = locator.getLocalRegistry()
    session = registry.createAdminSession("me", "secret")
    connection = session.ice_getConnection()
    connection.setACM(registry.getACMTimeout(), Ice.Unset, Ice.ACMHeartbeat.HeartbeatAlways)
    admin = session.getAdmin()
    template = session.getAdminCallbackTemplate()
    say(template.ice_getIdentity().name)
    adapter = communicator.createObjectAdapter("")
    connection.setAdapter(adapter)
    node, master = admin.getNodeAdmin(sys.argv[2]), admin.getRegistryAdmin("Master")
    say(tried(lambda: admin.getNodeAdmin("nobody")), tried(lambda: admin.getRegistryAdmin("nobody")))
    for of in [node, master]:
        say(communicator.identityToString(of.ice_getIdentity()))
        for facet in ["", "Process", "Properties", "Logger", "Nonsense"]:
            say(facet, tried(of.ice_facet(facet).ice_ids))
        properties = Ice.PropertiesAdminPrx.uncheckedCast(of, "Properties")
        say([properties.getProperty(name) for name in ["IceGrid.Node.Name", "IceGrid.Nonsense"]])
        say(list(properties.getPropertiesForPrefix("IceGrid.Node.Name").items()))
        say(tried(lambda: properties.setProperties({})))
        say(tried(lambda: Ice.ProcessPrx.uncheckedCast(of, "Process").writeMessage("hello", 1)))
    # Something is logged: that a session begins.
    registry.createAdminSession("another", "secret").destroy()
    logger = Ice.LoggerAdminPrx.uncheckedCast(master, "Logger")
    Type = Ice.LogMessageType
    messages, prefix = logger.getLog([], [], -1)
    say(bool(prefix), 0 < len(messages) <= 200, {m.type for m in messages} <= {Type.TraceMessage, Type.WarningMessage})
    say([len(logger.getLog([], [], most)[0]) for most in [0, 1, 2]])
    traces = logger.getLog([Type.TraceMessage], [], 1)[0]
    say(len(logger.getLog([Type.TraceMessage], [traces[0].traceCategory], 1)[0]))
    say(logger.getLog([Type.TraceMessage], ["nonsense"], -1)[0], logger.getLog([Type.ErrorMessage], [], -1)[0])
    mine = Ice.Identity("mine", template.ice_getIdentity().category)
    adapter.add(Logger(), mine)
    remote = Ice.RemoteLoggerPrx.uncheckedCast(template.ice_identity(mine))
    say(tried(lambda: logger.attachRemoteLogger(remote, [], [], 1)), heard.get(timeout=60))
    say(tried(lambda: logger.attachRemoteLogger(remote, [], [], 1)))
    say(tried(lambda: logger.attachRemoteLogger(None, [], [], 1)))
    registry.createAdminSession("somebody", "secret").destroy()
    say("hears", hears_of("somebody"))
    say(logger.detachRemoteLogger(remote), logger.detachRemoteLogger(remote), logger.detachRemoteLogger(None))
    # What the client serves is reached through the registry, from anywhere, and what it does not serve is not.
    elsewhere = remote.ice_connectionId("elsewhere")
    elsewhere.log(Ice.LogMessage(Type.PrintMessage, 0, "", "from elsewhere"))
    say("hears", hears_of("from elsewhere"))
    elsewhere.ice_oneway().log(Ice.LogMessage(Type.PrintMessage, 0, "", "one way"))
    say("hears", hears_of("one way"))
    say(tried(template.ice_ping))
    # It is all there for who has the session only, and while it lasts.
    say(tried(logger.ice_connectionId("elsewhere").ice_ping))
    server = admin.getServerAdmin(sys.argv[3])
    say(tried(server.ice_connectionId("elsewhere").ice_ping))
    session.destroy()
    say(tried(logger.ice_ping), tried(elsewhere.ice_ping))
