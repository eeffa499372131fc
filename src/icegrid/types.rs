//! The types of module IceGrid, and of Ice and Glacier2 where the registry speaks them: as they are on the wire.
//!
//! Sources: `IceGrid/Admin.ice`, `Descriptor.ice`, `Exception.ice`, `Registry.ice`, `Ice/Locator.ice`, `Ice/RemoteLogger.ice`,
//! `Glacier2/Session.ice`, `PermissionsVerifier.ice` of Ice 3.7. Numbers are texts in descriptors, since variables may be in them.

#![allow(
    missing_docs,
    reason = "members have the names of Slice, and are described there"
)]

use std::collections::BTreeMap;

use crate::ice::{Family, Identity, Known, Proxy, Ref};
use crate::{class, enumeration, exception, record};

/// Texts by name.
pub type Texts = BTreeMap<String, String>;

/// Property sets by id.
pub type PropertySets = BTreeMap<String, PropertySetDescriptor>;

/// Templates by id.
pub type Templates = BTreeMap<String, TemplateDescriptor>;

record! {
    /// A property.
    pub struct PropertyDescriptor {
        pub name: String,
        pub value: String,
    }
}

record! {
    /// Properties, after those of the sets referred to.
    #[derive(Default)]
    pub struct PropertySetDescriptor {
        pub references: Vec<String>,
        pub properties: Vec<PropertyDescriptor>,
    }
}

record! {
    /// A well-known object.
    pub struct ObjectDescriptor {
        pub id: Identity,
        pub class: String,
        pub proxy_options: String,
    }
}

record! {
    /// An object adapter.
    pub struct AdapterDescriptor {
        pub name: String,
        pub description: String,
        pub id: String,
        pub replica_group_id: String,
        pub priority: String,
        pub register_process: bool,
        pub server_lifetime: bool,
        pub objects: Vec<ObjectDescriptor>,
        pub allocatables: Vec<ObjectDescriptor>,
    }
}

record! {
    /// A database environment.
    pub struct DbEnvDescriptor {
        pub name: String,
        pub description: String,
        pub db_home: String,
        pub properties: Vec<PropertyDescriptor>,
    }
}

class! {
    /// What servers and services have in common.
    #[derive(Default)]
    pub struct CommunicatorDescriptor("::IceGrid::CommunicatorDescriptor") {
        pub adapters: Vec<AdapterDescriptor>,
        pub property_set: PropertySetDescriptor,
        pub db_envs: Vec<DbEnvDescriptor>,
        pub logs: Vec<String>,
        pub description: String,
    }
}

record! {
    /// Files to be distributed; nothing does that any more.
    #[derive(Default)]
    pub struct DistributionDescriptor {
        pub icepatch: String,
        pub directories: Vec<String>,
    }
}

class! {
    /// A server.
    #[derive(Default)]
    pub struct ServerDescriptor("::IceGrid::ServerDescriptor"): CommunicatorDescriptor {
        pub id: String,
        pub exe: String,
        pub ice_version: String,
        pub pwd: String,
        pub options: Vec<String>,
        pub envs: Vec<String>,
        pub activation: String,
        pub activation_timeout: String,
        pub deactivation_timeout: String,
        pub application_distrib: bool,
        pub distrib: DistributionDescriptor,
        pub allocatable: bool,
        pub user: String,
    }
}

class! {
    /// A service of an icebox.
    #[derive(Default)]
    pub struct ServiceDescriptor("::IceGrid::ServiceDescriptor"): CommunicatorDescriptor {
        pub name: String,
        pub entry: String,
    }
}

record! {
    /// A server made of a template.
    pub struct ServerInstanceDescriptor {
        pub template: String,
        pub parameter_values: Texts,
        pub property_set: PropertySetDescriptor,
        pub service_property_sets: PropertySets,
    }
}

record! {
    /// A template of a server or of a service.
    pub struct TemplateDescriptor {
        pub descriptor: Ref<CommunicatorDescriptor>,
        pub parameters: Vec<String>,
        pub parameter_defaults: Texts,
    }
}

record! {
    /// A service: made of a template, or described here.
    pub struct ServiceInstanceDescriptor {
        pub template: String,
        pub parameter_values: Texts,
        pub descriptor: Ref<ServiceDescriptor>,
        pub property_set: PropertySetDescriptor,
    }
}

class! {
    /// An icebox.
    pub struct IceBoxDescriptor("::IceGrid::IceBoxDescriptor"): ServerDescriptor {
        pub services: Vec<ServiceInstanceDescriptor>,
    }
}

record! {
    /// A node.
    #[derive(Default)]
    pub struct NodeDescriptor {
        pub variables: Texts,
        pub server_instances: Vec<ServerInstanceDescriptor>,
        pub servers: Vec<Ref<ServerDescriptor>>,
        pub load_factor: String,
        pub description: String,
        pub property_sets: PropertySets,
    }
}

class! {
    /// How a replica group chooses.
    pub struct LoadBalancingPolicy("::IceGrid::LoadBalancingPolicy") {
        pub n_replicas: String,
    }
}

class! {
    /// By chance.
    pub struct RandomLoadBalancingPolicy("::IceGrid::RandomLoadBalancingPolicy"): LoadBalancingPolicy {}
}

class! {
    /// By priority.
    pub struct OrderedLoadBalancingPolicy("::IceGrid::OrderedLoadBalancingPolicy"): LoadBalancingPolicy {}
}

class! {
    /// In turn.
    pub struct RoundRobinLoadBalancingPolicy("::IceGrid::RoundRobinLoadBalancingPolicy"): LoadBalancingPolicy {}
}

class! {
    /// By the load of the nodes.
    pub struct AdaptiveLoadBalancingPolicy("::IceGrid::AdaptiveLoadBalancingPolicy"): LoadBalancingPolicy {
        pub load_sample: String,
    }
}

record! {
    /// Adapters that answer as one.
    pub struct ReplicaGroupDescriptor {
        pub id: String,
        pub load_balancing: Ref<LoadBalancingPolicy>,
        pub proxy_options: String,
        pub objects: Vec<ObjectDescriptor>,
        pub description: String,
        pub filter: String,
    }
}

record! {
    /// An application.
    #[derive(Default)]
    pub struct ApplicationDescriptor {
        pub name: String,
        pub variables: Texts,
        pub replica_groups: Vec<ReplicaGroupDescriptor>,
        pub server_templates: Templates,
        pub service_templates: Templates,
        pub nodes: BTreeMap<String, NodeDescriptor>,
        pub distrib: DistributionDescriptor,
        pub description: String,
        pub property_sets: PropertySets,
    }
}

class! {
    /// A text, or none.
    pub struct BoxedString("::IceGrid::BoxedString") {
        pub value: String,
    }
}

class! {
    /// A distribution, or none.
    pub struct BoxedDistributionDescriptor("::IceGrid::BoxedDistributionDescriptor") {
        pub value: DistributionDescriptor,
    }
}

record! {
    /// What is to change in a node.
    #[derive(Default)]
    pub struct NodeUpdateDescriptor {
        pub name: String,
        pub description: Ref<BoxedString>,
        pub variables: Texts,
        pub remove_variables: Vec<String>,
        pub property_sets: PropertySets,
        pub remove_property_sets: Vec<String>,
        pub server_instances: Vec<ServerInstanceDescriptor>,
        pub servers: Vec<Ref<ServerDescriptor>>,
        pub remove_servers: Vec<String>,
        pub load_factor: Ref<BoxedString>,
    }
}

record! {
    /// What is to change in an application.
    #[derive(Default)]
    pub struct ApplicationUpdateDescriptor {
        pub name: String,
        pub description: Ref<BoxedString>,
        pub distrib: Ref<BoxedDistributionDescriptor>,
        pub variables: Texts,
        pub remove_variables: Vec<String>,
        pub property_sets: PropertySets,
        pub remove_property_sets: Vec<String>,
        pub replica_groups: Vec<ReplicaGroupDescriptor>,
        pub remove_replica_groups: Vec<String>,
        pub server_templates: Templates,
        pub remove_server_templates: Vec<String>,
        pub service_templates: Templates,
        pub remove_service_templates: Vec<String>,
        pub nodes: Vec<NodeUpdateDescriptor>,
        pub remove_nodes: Vec<String>,
    }
}

/// The classes in descriptors.
pub const DESCRIPTORS: Family = &[
    Known::of::<CommunicatorDescriptor>(),
    Known::of::<ServerDescriptor>(),
    Known::of::<ServiceDescriptor>(),
    Known::of::<IceBoxDescriptor>(),
    Known::of::<LoadBalancingPolicy>(),
    Known::of::<RandomLoadBalancingPolicy>(),
    Known::of::<OrderedLoadBalancingPolicy>(),
    Known::of::<RoundRobinLoadBalancingPolicy>(),
    Known::of::<AdaptiveLoadBalancingPolicy>(),
    Known::of::<BoxedString>(),
    Known::of::<BoxedDistributionDescriptor>(),
];

enumeration! {
    /// The state of a server.
    pub enum ServerState {
        Inactive = 0,
        Activating = 1,
        ActivationTimedOut = 2,
        Active = 3,
        Deactivating = 4,
        Destroying = 5,
        Destroyed = 6,
    }
}

enumeration! {
    /// Over how many minutes load is averaged.
    pub enum LoadSample {
        LoadSample1 = 0,
        LoadSample5 = 1,
        LoadSample15 = 2,
    }
}

record! {
    /// A well-known object.
    pub struct ObjectInfo {
        pub proxy: Option<Proxy>,
        pub class: String,
    }
}

record! {
    /// An adapter.
    pub struct AdapterInfo {
        pub id: String,
        pub proxy: Option<Proxy>,
        pub replica_group_id: String,
    }
}

record! {
    /// A server, with everything resolved.
    pub struct ServerInfo {
        pub application: String,
        pub uuid: String,
        pub revision: i32,
        pub node: String,
        pub descriptor: Ref<ServerDescriptor>,
        pub session_id: String,
    }
}

record! {
    /// A node.
    #[derive(Default)]
    pub struct NodeInfo {
        pub name: String,
        pub os: String,
        pub hostname: String,
        pub release: String,
        pub version: String,
        pub machine: String,
        pub n_processors: i32,
        pub data_dir: String,
    }
}

record! {
    /// A registry.
    pub struct RegistryInfo {
        pub name: String,
        pub hostname: String,
    }
}

record! {
    /// The load of a node, averaged over minutes.
    pub struct LoadInfo {
        pub avg1: f32,
        pub avg5: f32,
        pub avg15: f32,
    }
}

record! {
    /// An application. Times are milliseconds since 1970.
    pub struct ApplicationInfo {
        pub uuid: String,
        pub create_time: i64,
        pub create_user: String,
        pub update_time: i64,
        pub update_user: String,
        pub revision: i32,
        pub descriptor: ApplicationDescriptor,
    }
}

record! {
    /// What has changed in an application.
    pub struct ApplicationUpdateInfo {
        pub update_time: i64,
        pub update_user: String,
        pub revision: i32,
        pub descriptor: ApplicationUpdateDescriptor,
    }
}

record! {
    /// What changes of a server while it runs.
    pub struct ServerDynamicInfo {
        pub id: String,
        pub state: ServerState,
        pub pid: i32,
        pub enabled: bool,
    }
}

record! {
    /// What changes of an adapter.
    pub struct AdapterDynamicInfo {
        pub id: String,
        pub proxy: Option<Proxy>,
    }
}

record! {
    /// What runs on a node.
    pub struct NodeDynamicInfo {
        pub info: NodeInfo,
        pub servers: Vec<ServerDynamicInfo>,
        pub adapters: Vec<AdapterDynamicInfo>,
    }
}

enumeration! {
    /// The kind of a message in a log.
    pub enum LogMessageType {
        PrintMessage = 0,
        TraceMessage = 1,
        WarningMessage = 2,
        ErrorMessage = 3,
    }
}

record! {
    /// A message in a log. The time is microseconds since 1970.
    pub struct LogMessage {
        pub kind: LogMessageType,
        pub timestamp: i64,
        pub trace_category: String,
        pub message: String,
    }
}

record! {
    /// Glacier2's: what is known of an encrypted connection. Certificates are PEM, the other side's own first.
    pub struct SslInfo {
        pub remote_host: String,
        pub remote_port: i32,
        pub local_host: String,
        pub local_port: i32,
        pub cipher: String,
        pub certs: Vec<String>,
    }
}

/// Declares exceptions with one text.
macro_rules! of_one_text {
    ($($(#[$meta:meta])* $name:ident($type_id:literal) $member:ident;)*) => {$(
        exception! {
            $(#[$meta])*
            pub struct $name($type_id) { pub $member: String }
        }
    )*};
}

of_one_text! {
    /// There is no such application.
    ApplicationNotExistException("::IceGrid::ApplicationNotExistException") name;
    /// There is no such server.
    ServerNotExistException("::IceGrid::ServerNotExistException") id;
    /// There is no such adapter.
    AdapterNotExistException("::IceGrid::AdapterNotExistException") id;
    /// There is no such node.
    NodeNotExistException("::IceGrid::NodeNotExistException") name;
    /// There is no such registry.
    RegistryNotExistException("::IceGrid::RegistryNotExistException") name;
    /// It cannot be deployed.
    DeploymentException("::IceGrid::DeploymentException") reason;
    /// There is no such signal, or it cannot be sent.
    BadSignalException("::IceGrid::BadSignalException") reason;
    /// Somebody else holds the lock.
    AccessDeniedException("::IceGrid::AccessDeniedException") lock_user_id;
    /// It cannot be allocated.
    AllocationException("::IceGrid::AllocationException") reason;
    /// It is not permitted.
    PermissionDeniedException("::IceGrid::PermissionDeniedException") reason;
    /// The file cannot be read.
    FileNotAvailableException("::IceGrid::FileNotAvailableException") reason;
    /// Glacier2's: it is not permitted.
    SessionPermissionDeniedException("::Glacier2::PermissionDeniedException") reason;
    /// Glacier2's: no session can be made.
    CannotCreateSessionException("::Glacier2::CannotCreateSessionException") reason;
}

/// Declares exceptions that say of whom, and why.
macro_rules! with_reason {
    ($($(#[$meta:meta])* $name:ident($type_id:literal) $member:ident;)*) => {$(
        exception! {
            $(#[$meta])*
            pub struct $name($type_id) { pub $member: String, pub reason: String }
        }
    )*};
}

with_reason! {
    /// A server cannot be started.
    ServerStartException("::IceGrid::ServerStartException") id;
    /// A server cannot be stopped.
    ServerStopException("::IceGrid::ServerStopException") id;
    /// A node cannot be reached.
    NodeUnreachableException("::IceGrid::NodeUnreachableException") name;
    /// A server cannot be reached.
    ServerUnreachableException("::IceGrid::ServerUnreachableException") name;
    /// A registry cannot be reached.
    RegistryUnreachableException("::IceGrid::RegistryUnreachableException") name;
}

/// Declares exceptions that say whose identity.
macro_rules! of_identity {
    ($($(#[$meta:meta])* $name:ident($type_id:literal);)*) => {$(
        exception! {
            $(#[$meta])*
            pub struct $name($type_id) { pub id: Identity }
        }
    )*};
}

of_identity! {
    /// There is such an object.
    ObjectExistsException("::IceGrid::ObjectExistsException");
    /// There is no such object.
    ObjectNotRegisteredException("::IceGrid::ObjectNotRegisteredException");
    /// There is such an observer.
    ObserverAlreadyRegisteredException("::IceGrid::ObserverAlreadyRegisteredException");
}

exception! {
    /// It cannot be patched.
    pub struct PatchException("::IceGrid::PatchException") { pub reasons: Vec<String> }
}

exception! {
    /// It was not free in time.
    pub struct AllocationTimeoutException("::IceGrid::AllocationTimeoutException"): AllocationException {}
}

/// Declares exceptions with nothing in them.
macro_rules! bare {
    ($($(#[$meta:meta])* $name:ident($type_id:literal);)*) => {$(
        exception! {
            $(#[$meta])*
            pub struct $name($type_id) {}
        }
    )*};
}

bare! {
    /// There is no such adapter.
    AdapterNotFoundException("::Ice::AdapterNotFoundException");
    /// The adapter is not of that group.
    InvalidReplicaGroupIdException("::Ice::InvalidReplicaGroupIdException");
    /// Another process has that adapter.
    AdapterAlreadyActiveException("::Ice::AdapterAlreadyActiveException");
    /// There is no such object.
    ObjectNotFoundException("::Ice::ObjectNotFoundException");
    /// There is no such server.
    ServerNotFoundException("::Ice::ServerNotFoundException");
    /// A remote logger hears that log already.
    RemoteLoggerAlreadyAttachedException("::Ice::RemoteLoggerAlreadyAttachedException");
}
