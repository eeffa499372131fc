"""What IceGrid's graphical tool does: observer.py LOCATOR. Prints what it is told, a line each; ends when standard input does."""
import sys

import Ice
import IceGrid


def say(*words):
    print(*words, flush=True)


class Registries(IceGrid.RegistryObserver):
    def registryInit(self, registries, current):
        say("registryInit", *[r.name for r in registries])

    def registryUp(self, registry, current):
        say("registryUp", registry.name)

    def registryDown(self, name, current):
        say("registryDown", name)


class Nodes(IceGrid.NodeObserver):
    def nodeInit(self, nodes, current):
        assert list(current.ctx) == ["serial"]
        say("nodeInit", *[n.info.name for n in nodes], *[s.id for n in nodes for s in n.servers])

    def nodeUp(self, node, current):
        say("nodeUp", node.info.name)

    def nodeDown(self, name, current):
        say("nodeDown", name)

    def updateServer(self, node, info, current):
        # As IceGrid has it, which numbers what it keeps, and the beginnings of all.
        assert not current.ctx
        say("updateServer", node, info.id, info.state, info.enabled)

    def updateAdapter(self, node, info, current):
        say("updateAdapter", node, info.id, "listens" if info.proxy else "does not listen")


class Applications(IceGrid.ApplicationObserver):
    def applicationInit(self, serial, applications, current):
        self.serial = serial
        say("applicationInit", *[a.descriptor.name for a in applications])

    def then(self, serial, *words):
        say(*words, "next" if serial == self.serial + 1 else "out of order")
        self.serial = serial

    def applicationAdded(self, serial, info, current):
        self.then(serial, "applicationAdded", info.descriptor.name)

    def applicationRemoved(self, serial, name, current):
        self.then(serial, "applicationRemoved", name)

    def applicationUpdated(self, serial, info, current):
        self.then(serial, "applicationUpdated", info.descriptor.name, *[n.name for n in info.descriptor.nodes])


class Adapters(IceGrid.AdapterObserver):
    def adapterInit(self, adapters, current):
        say("adapterInit", len(adapters))

    def adapterAdded(self, info, current):
        say("adapterAdded", info.id)

    def adapterUpdated(self, info, current):
        say("adapterUpdated", info.id)

    def adapterRemoved(self, id, current):
        say("adapterRemoved", id)


class Objects(IceGrid.ObjectObserver):
    def objectInit(self, objects, current):
        say("objectInit", len(objects))

    def objectAdded(self, info, current):
        say("objectAdded", info.proxy.ice_getIdentity().name, info.type)

    def objectUpdated(self, info, current):
        say("objectUpdated", info.proxy.ice_getIdentity().name)

    def objectRemoved(self, id, current):
        say("objectRemoved", id.name)


with Ice.initialize() as communicator:
    locator = IceGrid.LocatorPrx.checkedCast(communicator.stringToProxy(sys.argv[1]))
    registry = locator.getLocalRegistry()
    session = registry.createAdminSession("observer", "secret")
    session.ice_getConnection().setACM(registry.getACMTimeout(), Ice.Unset, Ice.ACMHeartbeat.HeartbeatAlways)
    adapter = communicator.createObjectAdapter("")
    ids = []
    for observer in [Registries(), Nodes(), Applications(), Adapters(), Objects()]:
        ids.append(adapter.addWithUUID(observer).ice_getIdentity())
    session.ice_getConnection().setAdapter(adapter)
    session.setObserversByIdentity(*ids)
    say("observes")
    try:
        session.setObserversByIdentity(*ids)
    except IceGrid.ObserverAlreadyRegisteredException:
        say("not twice")
    serial = session.startUpdate()
    # Whoever has it may take it again.
    assert session.startUpdate() == serial
    say("update", "at" if serial == adapter.find(ids[2]).serial else "not at", "the state that is known")
    session.finishUpdate()
    sys.stdin.read()
    session.destroy()
