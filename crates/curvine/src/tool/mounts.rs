//! The mount table of under file systems: `cv mount`, `cv umount`.

use std::collections::{BTreeMap, HashMap};
use std::process::ExitCode;
use std::time::Duration;

use curvine_client::FileSystem;
use curvine_proto::{MountInfo, MountUfs, TrashMode, UfsMountSettings};
use curvine_types::limits::{STORE_TTL_DEFAULT_MS, TRASH_OVER_DEFAULT, TRASH_OVER_MAX, TRASH_RETENTION_DEFAULT_MS};
use curvine_types::units::{parse_duration, parse_size};
use curvine_types::{Error, ErrorKind, Result, Secret};
use serde_json::{Value, json};

use super::Context;
use super::output::{say, say_json, table as draw};
use super::path::{clean, mode};
use crate::args::UfsMountArgs;

/// Prints the mount table.
pub async fn table(context: &Context) -> Result<ExitCode> {
    let mut mounts = context.fs.mount_table().await?.mounts;
    mounts.sort_by_key(|mount| mount.id);
    if context.json {
        let mounts: Vec<Value> = mounts.iter().map(mount_json).collect();
        say_json(&json!({ "mounts": mounts }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let row = |mount: &MountInfo| {
        let settings = mount.settings.clone().unwrap_or_default();
        [mount.id.to_string(), path_of(mount), mount.url.clone(), settings.write_type, settings.read_verify.to_string()]
    };
    let rows = mounts.iter().map(row).collect();
    say(&draw(["ID", "Curvine Path", "UFS Path", "Write Type", "Read Verify UFS"], rows))?;
    Ok(ExitCode::SUCCESS)
}

fn path_of(mount: &MountInfo) -> String {
    String::from_utf8_lossy(&mount.path).into_owned()
}

/// What a setting says; 0: the default.
fn or(setting: u64, default: u64) -> u64 {
    if setting == 0 { default } else { setting }
}

/// Secrets come as nothing but the fact that there are some.
fn mount_json(mount: &MountInfo) -> Value {
    let settings = mount.settings.clone().unwrap_or_default();
    let options: BTreeMap<&String, &String> = mount.options.iter().collect();
    json!({
        "id": mount.id,
        "path": path_of(mount),
        "url": mount.url,
        "options": options,
        "write_type": settings.write_type,
        "read_verify": settings.read_verify,
        "read_only": settings.read_only,
        "write_back": settings.write_back,
        "uid": settings.uid,
        "gid": settings.gid,
        "file_mode": format!("{:04o}", settings.file_mode),
        "dir_mode": format!("{:04o}", settings.dir_mode),
        "ttl_ms": or(settings.ttl_ms, STORE_TTL_DEFAULT_MS),
        "block_size": settings.block_size,
        "trash": match settings.trash() {
            TrashMode::Off => json!("off"),
            TrashMode::All => json!("all"),
            TrashMode::Many => json!(or(settings.trash_over.into(), TRASH_OVER_DEFAULT.into())),
        },
        "trash_retention_ms": or(settings.trash_retention_ms, TRASH_RETENTION_DEFAULT_MS),
    })
}

/// Binds a store to a path, then looks into it; or only looks, or changes what is bound.
pub async fn mount(context: &Context, arguments: &UfsMountArgs) -> Result<ExitCode> {
    match (arguments.url.as_deref(), arguments.path.as_deref()) {
        (Some("resync"), Some(path)) => return super::jobs::resync(context, path).await,
        (Some("check"), Some(path)) => return super::mount_check::run(context, path).await,
        _ => {}
    }
    let request = match arguments.update {
        true => update(context, arguments).await?,
        false => request(arguments, context.conf.master.block_size)?,
    };
    let (url, path) = (request.url.clone(), request.path.clone());
    let shown = String::from_utf8_lossy(&path).into_owned();
    if arguments.check || arguments.dry_run {
        context.fs.check_mount(request.clone()).await.map_err(|error| error.with("mount", &url))?;
        return checked(context, arguments, &request);
    }
    let id = context.fs.mount_ufs(request).await?;
    if !arguments.no_check
        && let Err(error) = look_into(&context.fs, &path).await
    {
        if is_of_the_store(error.kind()) {
            return Err(error.with("mount", &url));
        }
        eprintln!("warning: it is mounted, but nobody could look into it yet: {error}");
    }
    match (context.json, arguments.update) {
        (true, _) => say_json(&json!({ "id": id, "url": url, "path": shown }))?,
        (false, true) => say(&format!("changed the mount of {url} at {shown}"))?,
        (false, false) => say(&format!("mounted {url} at {shown}"))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Tells of a store that was looked into without mounting it.
fn checked(context: &Context, arguments: &UfsMountArgs, request: &MountUfs) -> Result<ExitCode> {
    let info = MountInfo {
        path: request.path.clone(),
        url: request.url.clone(),
        options: request.options.clone(),
        settings: request.settings.clone(),
        ..MountInfo::default()
    };
    match (context.json, arguments.dry_run) {
        (true, _) => say_json(&mount_json(&info))?,
        (false, true) => say(&format!("would mount {} at {}: {:#}", info.url, path_of(&info), mount_json(&info)))?,
        (false, false) => say(&format!("{} is there and can be listed", info.url))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What is bound, with what was typed in the place of what it had. The master has the options and secrets that were not typed.
async fn update(context: &Context, arguments: &UfsMountArgs) -> Result<MountUfs> {
    let (url, path) = match (&arguments.url, &arguments.path) {
        (Some(path), None) => (None, path),
        (Some(url), Some(path)) => (Some(url.trim_end_matches('/')), path),
        _ => return Err(Error::new(ErrorKind::Config, "say which mount to change, such as --update /data")),
    };
    let path = clean(path)?;
    let mounts = context.fs.mount_table().await?.mounts;
    let there = mounts.into_iter().find(|mount| mount.path == path.as_bytes());
    let there = there
        .ok_or_else(|| Error::new(ErrorKind::NotFound, "nothing is mounted there, see cv mount").with("path", &path))?;
    if url.is_some_and(|url| url != there.url) {
        let message = "another under file system is mounted at the path; unmount it first";
        return Err(Error::new(ErrorKind::AlreadyExists, message).with("path", &path).with("url", &there.url));
    }
    let (options, secrets) = options(&there.url, arguments)?;
    Ok(MountUfs {
        path: path.into_bytes().into(),
        url: there.url,
        options,
        secrets,
        settings: Some(settings(arguments, there.settings.unwrap_or_default())?),
        update: true,
    })
}

/// Whether the store refused or failed, and not the cluster, whose workers may not run yet.
pub fn is_of_the_store(kind: ErrorKind) -> bool {
    use ErrorKind::{Config, NotFound, NotSupported, PermissionDenied, Ufs};
    matches!(kind, Ufs | Config | NotFound | NotSupported | PermissionDenied)
}

pub async fn look_into(fs: &FileSystem, path: &[u8]) -> Result<()> {
    let root = fs.resolve(path).await?;
    fs.readdir(root.attr.inode, 0, 1, false).await.map(|_| ())
}

/// Binds it unless the table has it already; another store at the path is an error.
pub async fn mount_unless_there(fs: &FileSystem, arguments: &UfsMountArgs) -> Result<()> {
    let request = request(arguments, curvine_types::limits::BLOCK_SIZE_DEFAULT)?;
    let mounts = fs.mount_table().await?.mounts;
    match mounts.iter().find(|mount| mount.path == request.path) {
        None => {
            let path = request.path.clone();
            fs.mount_ufs(request).await?;
            look_into(fs, &path).await
        }
        Some(there) if there.url == request.url => Ok(()),
        Some(there) => Err(Error::new(ErrorKind::AlreadyExists, "another under file system is mounted at the path")
            .with("path", path_of(there))
            .with("url", &there.url)),
    }
}

/// Takes a store off a path.
pub async fn umount(context: &Context, path: &str, force: bool) -> Result<ExitCode> {
    let path = clean(path)?;
    context.fs.umount_ufs(path.as_bytes(), force).await?;
    match context.json {
        true => say_json(&json!({ "path": path }))?,
        false => say(&format!("unmounted {path}"))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The typed url and options, checked as far as that goes without a request to the store.
pub fn request(arguments: &UfsMountArgs, block_size: u64) -> Result<MountUfs> {
    let missing = || Error::new(ErrorKind::Config, "say what to mount and where, such as s3://bucket/prefix /data");
    let url = arguments.url.clone().ok_or_else(missing)?;
    let path = clean(arguments.path.as_deref().ok_or_else(missing)?)?;
    let (options, secrets) = options(&url, arguments)?;
    let known = secrets.iter().map(|(name, secret)| (name.clone(), Secret::new(secret.to_vec()))).collect();
    curvine_ufs::open(&url, &options.clone().into_iter().collect(), &known)?;
    let base = UfsMountSettings {
        file_mode: 0o644,
        dir_mode: 0o755,
        ttl_ms: STORE_TTL_DEFAULT_MS,
        block_size,
        write_type: "cache_mode".to_string(),
        trash_over: TRASH_OVER_DEFAULT,
        trash_retention_ms: TRASH_RETENTION_DEFAULT_MS,
        ..UfsMountSettings::default()
    };
    Ok(MountUfs {
        path: path.into_bytes().into(),
        url: url.trim_end_matches('/').to_string(),
        options,
        secrets,
        settings: Some(settings(arguments, base)?),
        update: false,
    })
}

type Options = (HashMap<String, String>, HashMap<String, bytes::Bytes>);

fn options(url: &str, arguments: &UfsMountArgs) -> Result<Options> {
    let typed = arguments.config.iter().map(|text| option(text)).collect::<Result<BTreeMap<_, _>>>()?;
    let (options, secrets) = curvine_ufs::split_secrets(url, typed);
    let bytes = |secret: Secret| bytes::Bytes::copy_from_slice(secret.expose());
    Ok((options.into_iter().collect(), secrets.into_iter().map(|(name, secret)| (name, bytes(secret))).collect()))
}

/// The settings of `base` but for what was typed.
fn settings(arguments: &UfsMountArgs, base: UfsMountSettings) -> Result<UfsMountSettings> {
    let mut settings = base;
    let wrong = |message, have: &str| Err(Error::new(ErrorKind::Config, message).with("have", have));
    match arguments.write_type.as_deref() {
        None => {}
        Some(mode @ ("cache_mode" | "fs_mode")) => settings.write_type = mode.to_string(),
        Some(other) => return wrong("--write-type is cache_mode or fs_mode", other),
    }
    if settings.write_type == "fs_mode" {
        check_fs_mode(arguments)?;
    }
    if let Some(ttl) = &arguments.ttl {
        let ttl = if ttl == "0" { Duration::ZERO } else { parse_duration(ttl)? };
        // 0 would mean the default.
        settings.ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1);
    }
    set_trash(arguments, &mut settings)?;
    settings.uid = arguments.uid.unwrap_or(settings.uid);
    settings.gid = arguments.gid.unwrap_or(settings.gid);
    if let Some(bits) = &arguments.file_mode {
        settings.file_mode = mode(bits)?;
    }
    if let Some(bits) = &arguments.dir_mode {
        settings.dir_mode = mode(bits)?;
    }
    if let Some(size) = &arguments.block_size {
        settings.block_size = parse_size(size)?;
    }
    settings.read_verify |= arguments.read_verify_ufs;
    match arguments.access_mode.as_deref() {
        None => {}
        Some("read_write" | "rw") => settings.read_only = false,
        Some("read_only" | "ro") => settings.read_only = true,
        Some(other) => return wrong("--access-mode is read_write or read_only", other),
    }
    match arguments.write.as_deref() {
        None => {}
        Some("through") => settings.write_back = false,
        Some("back") => settings.write_back = true,
        Some(other) => return wrong("--write is through or back", other),
    }
    settings.write_back |= settings.write_type == "fs_mode";
    Ok(settings)
}

/// What makes no sense where Curvine is the authority.
fn check_fs_mode(arguments: &UfsMountArgs) -> Result<()> {
    let problem = if arguments.ttl.is_some() {
        "in fs_mode Curvine is the authority and does not look into the store again; leave --ttl away, and see cv mount resync"
    } else if arguments.write.as_deref() == Some("through") {
        "in fs_mode Curvine is the authority and the store gets its copy later; leave --write through away, or use cache_mode"
    } else if matches!(arguments.access_mode.as_deref(), Some("read_only" | "ro")) {
        "in fs_mode Curvine is the authority, which makes no sense for a tree that nobody may change; use cache_mode"
    } else if arguments.read_verify_ufs {
        "in fs_mode Curvine is the authority and nothing is compared with the store at open; leave --read-verify-ufs away"
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::NotSupported, problem))
}

fn set_trash(arguments: &UfsMountArgs, settings: &mut UfsMountSettings) -> Result<()> {
    match arguments.trash.as_deref() {
        None => {}
        Some("off") => settings.set_trash(TrashMode::Off),
        Some("all") => settings.set_trash(TrashMode::All),
        Some(number) => {
            settings.trash_over =
                number.parse().ok().filter(|over| (1..=TRASH_OVER_MAX).contains(over)).ok_or_else(|| {
                    Error::new(ErrorKind::Config, "--trash is off, all, or a number of objects")
                        .with("have", number)
                        .with("limit", TRASH_OVER_MAX)
                })?;
            settings.set_trash(TrashMode::Many);
        }
    }
    if let Some(retention) = &arguments.trash_retention {
        // 0 would mean the default.
        settings.trash_retention_ms = u64::try_from(parse_duration(retention)?.as_millis()).unwrap_or(u64::MAX).max(1);
    }
    Ok(())
}

/// `key=value`, or `key=@file`, whose content is the value.
fn option(text: &str) -> Result<(String, String)> {
    let (key, value) = text.split_once('=').ok_or_else(|| {
        // Not shown: it may be a credential.
        Error::new(ErrorKind::Config, "write options as key=value or key=@file")
    })?;
    let Some(file) = value.strip_prefix('@') else { return Ok((key.to_string(), value.to_string())) };
    let content = std::fs::read_to_string(file).map_err(|source| {
        Error::new(ErrorKind::Config, "cannot read the file of an option")
            .with("key", key)
            .with("file", file)
            .caused_by(source)
    })?;
    let secret = Secret::new(content.trim());
    Ok((key.to_string(), String::from_utf8_lossy(secret.expose()).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(config: &[&str]) -> UfsMountArgs {
        UfsMountArgs {
            url: Some("s3://bucket/prefix/".into()),
            path: Some("/data/".into()),
            config: config.iter().map(|text| text.to_string()).collect(),
            ttl: Some("30s".into()),
            file_mode: Some("640".into()),
            dir_mode: Some("750".into()),
            ..UfsMountArgs::default()
        }
    }

    #[test]
    fn a_request_parts_options_from_secrets_and_reads_files() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        std::fs::write(&file, "s3cr3t\n").unwrap();
        let secret = format!("s3.credentials.secret=@{}", file.display());
        let request =
            request(&arguments(&["s3.endpoint_url=http://x:9000?a=b", "s3.credentials.access=a", &secret]), 1 << 20)
                .unwrap();
        assert_eq!((&request.path[..], request.url.as_str()), (&b"/data"[..], "s3://bucket/prefix"));
        assert_eq!(request.options.get("endpoint_url").map(String::as_str), Some("http://x:9000?a=b"));
        assert_eq!(request.options.len(), 1);
        assert_eq!(request.secrets.get("secret").map(|secret| &secret[..]), Some(&b"s3cr3t"[..]));
        let settings = request.settings.unwrap();
        assert_eq!((settings.file_mode, settings.ttl_ms, settings.block_size), (0o640, 30_000, 1 << 20));
        assert!(!settings.read_only && !settings.write_back);
    }

    #[test]
    fn what_cannot_work_is_refused_before_anything_is_asked() {
        assert!(request(&arguments(&["colour=red"]), 1 << 20).unwrap_err().to_string().contains("endpoint_url"));
        let error = request(&arguments(&["AKIA-not-a-pair"]), 1 << 20).unwrap_err().to_string();
        assert!(!error.contains("AKIA"), "{error}");
        let store = ["s3.endpoint_url=http://x:9000", "s3.credentials.access=a", "s3.credentials.secret=b"];
        let own = || UfsMountArgs { write_type: Some("fs_mode".into()), ttl: None, ..arguments(&store) };
        let settings = request(&own(), 1).unwrap().settings.unwrap();
        assert_eq!((settings.write_type.as_str(), settings.write_back), ("fs_mode", true));
        let refused = |arguments| request(&arguments, 1).unwrap_err().to_string().contains("fs_mode");
        assert!(refused(UfsMountArgs { ttl: Some("1s".into()), ..own() }));
        assert!(refused(UfsMountArgs { write: Some("through".into()), ..own() }));
        assert!(refused(UfsMountArgs { access_mode: Some("ro".into()), ..own() }));
        assert!(refused(UfsMountArgs { read_verify_ufs: true, ..own() }));
        assert!(refused(UfsMountArgs { write_type: Some("other_mode".into()), ..own() }));
        let kept = |trash: &str| {
            let typed = UfsMountArgs { trash: Some(trash.into()), ..own() };
            request(&typed, 1).map(|request| request.settings.unwrap_or_default().trash())
        };
        assert_eq!((kept("off").unwrap(), kept("all").unwrap()), (TrashMode::Off, TrashMode::All));
        assert_eq!(kept("7").unwrap(), TrashMode::Many);
        assert!(kept("0").is_err() && kept("some").is_err());
        assert!(request(&UfsMountArgs { path: Some("data".into()), ..arguments(&[]) }, 1).is_err());
    }
}
