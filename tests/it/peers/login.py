"""Logs in on Blitzes: through a Glacier2 router, or at their adapters. Does what its standard input says, line by line.

login.py Omero.ice NAME PROXY-OR-LOCATOR
"""

import sys

import Ice
import Glacier2
import IceGrid

slice_file, name, where = sys.argv[1:]
Ice.loadSlice("", ["-I" + Ice.getSliceDir(), slice_file])
import omero  # noqa: E402

CONTEXT = {"omero.client.uuid": name, "omero.agent": "peer", "omero.group": "lab"}


def show(proxy):
    identity = proxy.ice_getIdentity()
    endpoints = " ".join(str(e) for e in proxy.ice_getEndpoints())
    return "%s %s %s" % (identity.category, identity.name, endpoints or "@" + proxy.ice_getAdapterId())


def attempt(work):
    try:
        return work()
    except omero.WrappedCreateSessionException as error:
        return "wrapped %s %s %s" % (error.concurrency, error.backOff, error.reason)
    except Glacier2.CannotCreateSessionException as error:
        return "cannot %s" % error.reason
    except Glacier2.PermissionDeniedException as error:
        return "denied %s" % error.reason
    except Ice.ObjectNotExistException:
        return "gone"
    except Ice.Exception as error:
        return "failed %s" % type(error).__name__


class Client:
    def __init__(self, communicator):
        self.communicator = communicator
        self.router = None
        self.session = None

    def factory(self):
        return omero.api.ServiceFactoryPrx.uncheckedCast(self.session)

    def login(self, user, password):
        """Through the router."""
        if self.router is None:
            self.router = Glacier2.RouterPrx.checkedCast(self.communicator.stringToProxy(where).ice_router(None))
            self.communicator.setDefaultRouter(self.router)
        self.session = self.router.createSession(user, password, CONTEXT)
        return "session " + show(self.session)

    def nameless(self, user, password):
        """Through another router connection, as a client that does not say who it is."""
        proxy = self.communicator.stringToProxy(where).ice_router(None).ice_connectionId("nameless")
        return show(Glacier2.RouterPrx.checkedCast(proxy).createSession(user, password))

    def destroy(self):
        self.router.destroySession()
        return "destroyed"

    def refresh(self):
        self.router.refreshSession()
        return "refreshed"

    def keep(self):
        return "kept %s" % self.factory().keepAlive(None)

    def callback(self):
        self.factory().setCallback(None)
        return "set"

    def detach(self):
        self.factory().detachOnDestroy()
        return "detached"

    def object(self, text, cast):
        return cast(self.communicator.stringToProxy(text))

    def forge(self, adapter, user, password):
        """As a client that says of itself that a Blitz has passed it on."""
        proxy = self.object("BlitzVerifier@" + adapter, Glacier2.PermissionsVerifierPrx.checkedCast)
        right, reason = proxy.checkPermissions(user, password, dict(CONTEXT, **{"omero_grid.passed": "x"}))
        return "checked %s %s" % (right, reason)

    def check(self, adapter, user, password):
        """At an adapter."""
        proxy = self.object("BlitzVerifier@" + adapter, Glacier2.PermissionsVerifierPrx.checkedCast)
        right, reason = proxy.checkPermissions(user, password, CONTEXT)
        return "checked %s %s" % (right, reason)

    def create(self, adapter, user, named="yes"):
        proxy = self.object("BlitzManager@" + adapter, Glacier2.SessionManagerPrx.checkedCast)
        self.session = proxy.create(user, None, CONTEXT if named == "yes" else {})
        return "session " + show(self.session)

    def node(self, adapter, uuid):
        text = "ClusterNode/%s@%s" % (uuid, adapter)
        proxy = self.object(text, omero.grid.ClusterNodePrx.checkedCast)
        proxy.down("somebody else")
        return "node " + proxy.getNodeUuid()

    def nodes(self):
        """The Blitzes that the registry says are there."""
        locator = self.communicator.getDefaultLocator()
        query = IceGrid.QueryPrx.checkedCast(locator.ice_identity(Ice.Identity("Query", "IceGrid")))
        found = query.findAllObjectsByType("::omero::grid::ClusterNode")
        live = [omero.grid.ClusterNodePrx.uncheckedCast(node).getNodeUuid() for node in found]
        assert sorted(live) == sorted(node.ice_getIdentity().name for node in found)
        return " ".join(["nodes"] + sorted(live))


init = Ice.InitializationData()
init.properties = Ice.createProperties()
if "Locator" in where:
    init.properties.setProperty("Ice.Default.Locator", where)
with Ice.initialize(init) as communicator:
    client = Client(communicator)
    print("ready", flush=True)
    for line in sys.stdin:
        word, *rest = line.split()
        print(attempt(lambda: getattr(client, word)(*rest)), flush=True)
