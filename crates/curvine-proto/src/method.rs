//! The methods of the RPC and their numbers. Part of the protocol: append only.

macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// A method; the request and reply messages are named in `proto/` after it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Method { $($(#[$doc])* $name = $number,)* }

        impl Method {
            /// The method of a frame header; `None` for one that only a newer version knows.
            pub fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Method::$name),)* _ => None }
            }

            /// For logs and metrics.
            pub fn name(self) -> &'static str {
                match self { $(Method::$name => stringify!($name),)* }
            }
        }
    };
}

methods! {
    /// Any role: answers at once with Empty.
    Ping = 1,

    OpenSession = 10,
    Heartbeat = 11,
    Declare = 12,
    CloseSession = 13,
    Mutate = 14,
    Lookup = 15,
    GetAttr = 16,
    ReadDir = 17,
    ReadLink = 18,
    GetXattr = 19,
    ListXattr = 20,
    StatFs = 21,
    GetLock = 22,
    Open = 23,
    Close = 24,
    GetLayout = 25,
    PlaceForWrite = 26,
    TruncateFile = 27,
    ListWorkers = 28,

    /// Master to client.
    Recall = 40,

    RegisterWorker = 50,
    WorkerHeartbeat = 51,
    Inventory = 52,
    ResolveContent = 53,
    ResolveMount = 54,
    ReportChanged = 55,

    MountTable = 70,
    Report = 71,

    /// Client to worker.
    Read = 100,
    Write = 101,
    Truncate = 102,
    Fallocate = 103,
    Fsync = 104,
    Stat = 105,
    Seek = 106,
    ContentMap = 107,
    Fill = 108,

    /// Master to worker.
    Place = 120,
    OpenContent = 121,
    Seal = 122,
    DeleteContent = 123,
    UfsList = 124,
    UfsStat = 125,
    SetMtime = 126,

    /// Client to the worker of its own machine.
    Expose = 240,
    /// Master to worker.
    Probe = 241,

    /// Operator to master: whether the namespace is sound, and what it says that workers have.
    CheckNamespace = 220,
    ListPlaced = 221,
    /// Operator to master: writes a snapshot of the metadata now; Empty when it is durable.
    TakeSnapshot = 410,
    /// Operator to worker: what it has.
    ListHeld = 222,

    /// Client to master: close of a file of a mount.
    FlushToStore = 260,
    ListJobs = 261,

    /// Master to worker: changes of a store, and of what is kept of it.
    StoreObject = 270,
    StoreChange = 271,
    ReleaseContent = 272,
    AdoptObject = 273,
    Load = 350,
    FreeContents = 351,

    /// Operator to master: a load, export or free.
    GetJob = 352,
    /// Operator to master, and on to a worker: whether a store can be mounted.
    CheckMount = 353,
    CheckStore = 354,
    /// Operator to master, and on to a worker: keys that cannot be shown.
    CheckKeys = 355,
    Survey = 356,
    /// Worker to master: an upload in parts has begun.
    NoteUpload = 357,

    /// Between masters.
    RaftAppend = 150,
    RaftVote = 151,
    RaftSnapshot = 152,
    /// Of a master that looks for its cluster.
    MasterHello = 223,
    MasterJoin = 224,

    /// A worker that stops to the master.
    DrainWorker = 390,
    /// Master to worker.
    TakeContent = 391,

    /// Client to worker.
    CopyRange = 200,
    SyncAll = 201,

    /// Operator to worker: what it has done, and what it has.
    WorkerReport = 370,
    /// Operator to worker: whether the store of a mount answers.
    ProbeMount = 371,
    /// Operator to master.
    ListQuotas = 372,
    ListPins = 373,
    /// Worker to master.
    WhichPinned = 374,
    /// Operator to master: what was removed and is still in its store.
    ListTrash = 430,
    RestoreTrash = 431,
    EmptyTrash = 432,
    ListTtls = 433,
}
