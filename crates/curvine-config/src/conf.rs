//! Every key: its type, default and meaning. The text here is the text of `docs/CONFIGURATION.md`.

use std::path::PathBuf;
use std::time::Duration;

use curvine_types::limits::BLOCK_SIZE_DEFAULT;

use crate::catalogue::section;
use crate::kind::*;

const MIB: u64 = 1 << 20;

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn local() -> String {
    "localhost".to_string()
}

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterConf {
    pub general: GeneralConf,
    pub master: MasterConf,
    pub journal: JournalConf,
    pub worker: WorkerConf,
    pub client: ClientConf,
    pub fuse: FuseConf,
    pub log: LogConf,
    pub cli: CliConf,
    pub security: SecurityConf,
}

section! {
    /// What holds for all roles; these keys stand before the first section.
    GeneralConf, "" {
        /// Name of the cluster, for people. Its identity is a UUID, made when the cluster is first initialised.
        cluster_id: Text = "curvine".to_string();
        /// Network interface whose address takes the place of `hostname` in all sections; the environment's host names are
        /// then ignored. Empty: the host names hold.
        net_interface: Text = String::new();
        /// Address that all servers of this machine listen on, for example `0.0.0.0`. Empty: the server's `hostname`.
        bind_hostname: Text = String::new();
        /// Address that the web pages listen on: metrics at `/metrics`, health at `/healthz`. They tell names of hosts and mounts to
        /// whoever asks, so this machine alone may, unless this says otherwise, for example `0.0.0.0`.
        web_hostname: Text = "127.0.0.1".to_string();
        /// Let the environment plant the faults that whole-cluster tests look for. Never for data that matters.
        testing: Flag = false;
    }
}

section! {
    /// The master: namespace, sessions, placement.
    MasterConf, "master" {
        /// Name or address by which workers and clients reach the master.
        hostname: Text = local();
        /// Port of the master's RPC.
        rpc_port: Port = 8995;
        /// Port of the master's web page, see docs/METRICS.md. 0: none. While somebody else has it, there is a warning and no page.
        web_port: Port = 9001;
        /// How long a client session or a worker lives without being heard. After it, others may change what a silent
        /// client had cached; it is also the longest pause after a change of leader.
        lease_time: Span = secs(10);
        /// Leases on inodes over all sessions. Beyond it replies come without a lease, and clients ask again each time.
        lease_limit: Count = 8 << 20;
        /// Block size of new files: the unit of placement. A multiple of 1 MB.
        block_size: Size = BLOCK_SIZE_DEFAULT;
        /// Permission bits of the root directory of a new cluster.
        root_mode: Mode = 0o755;
        /// Connections that the master accepts; more are refused with a clear error.
        max_connections: Count = 16_384;
        /// Bytes of requests that may be in work at once.
        memory_limit: Size = 256 * MIB;
    }
}

section! {
    /// The replicated log of the master.
    JournalConf, "journal" {
        /// Directory of log, snapshots and the identity of this replica. A master needs it. A new directory is initialised
        /// once; one that holds anything is never formatted.
        journal_dir: File = PathBuf::new();
        /// Name or address by which the other masters reach this one.
        hostname: Text = local();
        /// Port of the RPC between masters.
        rpc_port: Port = 8996;
        /// The logs of all masters that share one, 1, 3 or 5 of them, the same list everywhere and this one included. Empty: this
        /// one alone. Replicas have identities of their own; an `id` in these entries is accepted and means nothing.
        journal_addrs: Addresses = Vec::new();
        /// A snapshot is taken when this many bytes of log have been written since the last one.
        snapshot_log_size: Size = 256 * MIB;
    }
}

section! {
    /// A worker: keeps file data and fetches it from under file systems.
    WorkerConf, "worker" {
        /// Name or address by which clients reach this worker.
        hostname: Text = local();
        /// Name of the machine, if `hostname` is that of a pod: clients whose `[client] hostname` it is are on the same machine.
        /// Empty: `hostname`.
        node: Text = String::new();
        /// Port of the worker's RPC.
        rpc_port: Port = 8997;
        /// Port of the worker's web page. 0: none.
        web_port: Port = 9002;
        /// Tier directories, fastest first: `[KIND:QUOTA]path`, `[KIND]path`, `[QUOTA]path` or `path`, with KIND one of MEM,
        /// SSD, HDD (the default; DISK is the same). A worker needs one. `[KIND:QUOTA:80%:50%]path` evicts clean copies in the
        /// background when more than 80% is in use, down to 50%.
        data_dir: DataDirs = Vec::new();
        /// Bytes of each disk that the worker leaves free.
        dir_reserved: Size = 0;
        /// How long a tier directory whose disk failed is left alone before it is tried again.
        probe_after: Span = secs(30);
        /// Unix socket for clients on the same machine. Empty: `worker.sock` in the first tier directory; `none`: no socket.
        socket_path: File = PathBuf::new();
        /// Most bytes of file data in memory at once: requests being received, replies being built, ranges being fetched.
        memory_limit: Size = 512 * MIB;
        /// Disk operations at once.
        disk_threads: Count = 32;
        /// File descriptors of cache files that are kept open.
        open_files: Count = 4096;
        /// Largest file of an under file system that is copied whole to this node when it is opened here for the second time.
        copy_max_size: Size = 1 << 30;
        /// Percent of the data directories that such copies may take; they make way first. 0: no copies.
        copy_percent: CountOrZero = 30;
        /// Most bytes written for one mount that may wait here for their upload; they cannot be evicted. Writers wait then; one file at
        /// a time goes on. 0: half of the data directories.
        dirty_limit: Size = 0;
        /// How long such a writer waits, at most until the deadline of its request; then it is ENOSPC.
        dirty_wait: Span = secs(20);
        /// At SIGTERM, first move what only this worker has to other workers or into the stores. For a worker that may not come
        /// back; a plain restart should not move everything. Under Fluid it is on unless an option of the runtime switches it off.
        drain_on_stop: Flag = false;
        /// How long that may take. In a pod, less than its `terminationGracePeriodSeconds`, which is 30 unless it is set.
        drain_timeout: Span = secs(25);
        /// Requests at once to the under file system of one mount.
        ufs_concurrency: Count = 64;
        /// Most bytes fetched from an under file system beyond what a reader asked for.
        ufs_read_ahead: Size = 32 * MIB;
        /// Deadline of one request to an under file system, retries included.
        ufs_timeout: Span = secs(20);
        /// Deadline of one request to the master.
        master_timeout: Span = secs(10);
    }
}

section! {
    /// The client, in a mount as in `cv`.
    ClientConf, "client" {
        /// The masters. Empty: the hosts of `journal_addrs` with `[master] rpc_port`, or else the one of the section `[master]`.
        master_addrs: Addresses = Vec::new();
        /// Name of this machine; a worker with the same one is local, and is reached by its Unix socket.
        hostname: Text = local();
        /// Deadline of an operation on metadata, retries included. It ends with an error, never later.
        rpc_timeout_ms: Millis = secs(30);
        /// Deadline of one request for data; an operation goes to other sources until both timeouts together have passed.
        data_timeout_ms: Millis = secs(30);
        /// Deadline of connecting to one address.
        conn_timeout_ms: Millis = secs(5);
        /// Connections to each worker.
        worker_connections: Count = 2;
        /// Read requests of 1 MB in flight for one open file, which is also how far it is read ahead.
        read_window: Count = 16;
        /// Write requests in flight for one open file.
        write_window: Count = 8;
        /// Most bytes of file data in flight or read ahead, over all open files.
        memory_limit: Size = 256 * MIB;
        /// Inodes whose attributes are cached.
        cached_inodes: Count = 200_000;
        /// Names, present and absent, that are cached over all directories.
        cached_names: Count = 400_000;
        /// Open files of one client.
        open_handles: Count = 1 << 20;
        /// Changes of metadata in flight; below 1024, the number of results that the master keeps for each session.
        mutations_in_flight: Count = 512;
        /// How long a list of workers is used before it is asked for again.
        worker_list_ttl: Span = secs(5);
        /// Small writes through one open file that may go into the metadata before the file gets a place on a worker.
        inline_writes: CountOrZero = 4;
        /// Permission bits that `cv` takes from what it makes.
        umask: Mode = 0o022;
    }
}

section! {
    /// The mount.
    FuseConf, "fuse" {
        /// Where to mount, unless the command line says it.
        mnt_path: File = PathBuf::from("/curvine-fuse");
        /// The directory of Curvine that becomes the root of the mount.
        fs_path: Text = "/".to_string();
        /// Port of the mount's web page. 0: none. Of several mounts on a machine, each needs its own.
        web_port: Port = 9003;
        /// Threads that read requests from the kernel. 0: as many as the machine has cores, from 2 to 8.
        io_threads: CountOrZero = 0;
        /// Each of these threads has its own descriptor of the session.
        clone_fd: Flag = true;
        /// Options of the mount: `ro`, `nosuid`, `nodev`, `noexec`, `allow_other`, and their opposites `rw`, `suid`, `dev`, `exec`.
        fuse_opts: Texts = Vec::new();
        /// Let the kernel read and write files of this node's worker by itself, where it can (Linux 6.9 and newer, CAP_SYS_ADMIN).
        passthrough: Flag = true;
        /// Smaller files are read through the page cache of the mount: opening them is cheaper so.
        passthrough_min_size: Size = 128 << 10;
        /// Larger files that are there already are written through the mount: the worker reads a file that the kernel has rewritten
        /// by itself as a whole, for its checksums, when it is closed.
        passthrough_rewrite_max: Size = 1 << 30;
        /// Which new files the kernel writes by itself: `auto`: those of a directory in which the last new file became large,
        /// `always`, `never`. Such a file is placed on the worker when it is made, which takes a few milliseconds.
        passthrough_writes: Text = "auto".to_string();
        /// Let other users than the mounting one in.
        allow_other: Flag = true;
        /// Mount read-only.
        readonly: Flag = false;
        /// Longest time that the kernel may believe a name without asking, and that only under a lease. The smaller of this and
        /// `attr_timeout_ms` holds for both.
        entry_timeout_ms: Millis = secs(10);
        /// Longest time that the kernel may believe attributes without asking, and that only under a lease.
        attr_timeout_ms: Millis = secs(10);
        /// Bytes that the kernel reads ahead.
        read_ahead: Size = 4 * MIB;
        /// Background requests in the kernel before it makes callers wait.
        max_background: SmallCount = 256;
        /// Background requests at which the kernel calls the mount congested; at most `max_background`.
        congestion_threshold: SmallCount = 192;
        /// Requests being served at which the mount stops reading more.
        requests_in_flight: Count = 4096;
        /// Bytes of requests being served, mostly data to be written, at which the mount stops reading more.
        memory_limit: Size = 64 * MIB;
        /// Open files and directories at once.
        open_files: Count = 1 << 20;
        /// How long a request goes on after a signal that does not kill its process.
        interrupt_grace: Span = secs(1);
        /// How long unmounting waits for what is in flight and for files that are still open.
        drain_timeout: Span = secs(10);
        /// Highest minor version of the kernel's FUSE protocol that is spoken, to do without what newer kernels offer. 0: all that is
        /// known.
        abi_minor_max: CountOrZero = 0;
        /// How old the numbers of `df` may get.
        statfs_interval: Span = secs(5);
    }
}

section! {
    /// Logs; they go to standard output.
    LogConf, "log" {
        /// `error`, `warn`, `info`, `debug`, `trace`, or a filter by module such as `info,curvine_rpc=debug`.
        level: Text = "info".to_string();
        /// Lines for people or JSON objects for collectors.
        format: Format = LogFormat::Text;
    }
}

section! {
    /// The command line tool `cv`.
    CliConf, "cli" {
        /// As `[log] level`; the tool's log goes to standard error.
        level: Text = "warn".to_string();
        /// How long the tool tries to reach a master before it fails.
        connect_timeout: Span = secs(10);
        /// Files that `cv load` fills and `cv fs put` or `get` copy at once.
        parallel: Count = 16;
    }
}

section! {
    /// Who belongs to the cluster.
    SecurityConf, "security" {
        /// File with the cluster secret: the same bytes (16 or more) for every master, worker and client. Nobody but its
        /// owner may be able to read it (mode 0600 or 0400).
        secret_file: File = PathBuf::new();
        /// Run without a secret: whoever reaches the ports can read and delete everything. For trials on one machine.
        allow_no_secret: Flag = false;
    }
}
