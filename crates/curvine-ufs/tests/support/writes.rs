//! What every store does with what is written into it.

use bytes::Bytes;
use curvine_types::{Error, ErrorKind, Result};
use curvine_ufs::{Condition, Expect, Source, Ufs};
use futures::future::BoxFuture;

/// Bytes to be stored.
pub struct Plain {
    pub data: Vec<u8>,
    pub token: String,
    /// Somebody changes them before they are whole.
    pub changes: bool,
    /// Only its beginning can be read.
    pub stalls: bool,
    /// Ids of uploads cannot be noted.
    pub forgets: bool,
    /// The uploads that were begun.
    pub uploads: std::sync::Mutex<Vec<String>>,
}

impl Plain {
    pub fn new(data: &[u8], token: &str) -> Self {
        Self {
            data: data.to_vec(),
            token: token.to_string(),
            changes: false,
            stalls: false,
            forgets: false,
            uploads: Default::default(),
        }
    }
}

impl Source for Plain {
    fn size(&self) -> u64 {
        self.data.len() as u64
    }

    fn token(&self) -> &str {
        &self.token
    }

    fn read<'a>(&'a self, offset: u64, len: u64) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(async move {
            if self.stalls && offset > 0 {
                std::future::pending::<()>().await;
            }
            Ok(Bytes::copy_from_slice(&self.data[offset as usize..(offset + len) as usize]))
        })
    }

    fn begun<'a>(&'a self, upload: &'a str) -> BoxFuture<'a, Result<()>> {
        self.uploads.lock().unwrap().push(upload.to_string());
        Box::pin(async { if self.forgets { Err(Error::new(ErrorKind::Unavailable, "not noted")) } else { Ok(()) } })
    }

    fn check<'a>(&'a self) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { if self.changes { Err(Error::new(ErrorKind::Conflict, "written again")) } else { Ok(()) } })
    }
}

/// What every store does with a file, whole in one request or in parts; `holds` reads what the store has under a key.
pub async fn store_conditionally(ufs: &dyn Ufs, holds: &impl Fn(&str) -> Option<Vec<u8>>) {
    let large: Vec<u8> = (0..(17u32 << 20) + 5).map(|i| (i ^ (i >> 9)) as u8).collect();
    for (key, first) in [("small", b"one".to_vec()), ("below/large", large.clone()), ("empty", Vec::new())] {
        let source = Plain::new(&first, "t1");
        let made = ufs.store(key, &source, &Condition::Absent).await.unwrap();
        assert_eq!((made.key.as_str(), made.size, made.directory), (key, first.len() as u64, false));
        assert!(holds(key) == Some(first.clone()), "{key}");
        let seen = ufs.stat(key).await.unwrap().unwrap();
        assert_eq!(Expect::of(&seen), Expect::of(&made));

        let second = Plain::new(&[b"two", &first[..]].concat(), "t2");
        let refused = ufs.store(key, &second, &Condition::Absent).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::VersionMismatch, "{refused}");
        let other = Expect { etag: "0123".into(), size: 77, mtime: None };
        assert_eq!(
            ufs.store(key, &second, &Condition::Is(other)).await.unwrap_err().kind(),
            ErrorKind::VersionMismatch
        );
        assert!(holds(key) == Some(first.clone()), "{key}: a refused store changes nothing");

        let torn = Plain { changes: true, ..Plain::new(&second.data, "t3") };
        let is_first = Condition::Is(Expect::of(&made));
        assert_eq!(ufs.store(key, &torn, &is_first).await.unwrap_err().kind(), ErrorKind::Conflict);
        assert!(holds(key) == Some(first.clone()), "{key}: nothing half is seen");

        let replaced = ufs.store(key, &second, &is_first).await.unwrap();
        assert!(holds(key) == Some(second.data.clone()), "{key}");
        assert_ne!(Expect::of(&replaced), Expect::of(&made));
        let third = Plain::new(b"three", "t4");
        assert_eq!(ufs.store(key, &third, &is_first).await.unwrap_err().kind(), ErrorKind::VersionMismatch);
        ufs.store(key, &third, &Condition::Any).await.unwrap();
        assert_eq!(holds(key).unwrap(), b"three");
        ufs.delete(key).await.unwrap();
        assert_eq!((holds(key), ufs.stat(key).await.unwrap()), (None, None));
        ufs.delete(key).await.unwrap();
    }
}

/// What every store does with names. `shows_empty`: it shows directories that nothing is in (the S3 server of the tests does not).
pub async fn change_names(ufs: &dyn Ufs, shows_empty: bool, holds: &impl Fn(&str) -> Option<Vec<u8>>) {
    ufs.make_directory("a/b/").await.unwrap();
    ufs.make_directory("a/b/").await.unwrap();
    if shows_empty {
        assert!(ufs.stat("a/b").await.unwrap().unwrap().directory);
        assert_eq!(ufs.list("a/b/", "", 10).await.unwrap().entries, []);
    }
    let file = ufs.store("a/b/f", &Plain::new(b"content", "t"), &Condition::Absent).await.unwrap();
    assert_eq!(ufs.remove_directory("a/b/").await.unwrap_err().kind(), ErrorKind::DirectoryNotEmpty);

    let other = Expect { size: 99, etag: "x".into(), mtime: None };
    assert_eq!(ufs.rename("a/b/f", "g", &other).await.unwrap_err().kind(), ErrorKind::VersionMismatch);
    ufs.store("g", &Plain::new(b"in the way", "t"), &Condition::Absent).await.unwrap();
    let moved = ufs.rename("a/b/f", "g", &Expect::of(&file)).await.unwrap();
    assert_eq!((moved.key.as_str(), holds("g").unwrap(), holds("a/b/f")), ("g", b"content".to_vec(), None));
    assert_eq!(Expect::of(&ufs.stat("g").await.unwrap().unwrap()), Expect::of(&moved));
    assert_eq!(ufs.rename("a/b/f", "h", &Expect::of(&file)).await.unwrap_err().kind(), ErrorKind::NotFound);
    ufs.remove_directory("a/b/").await.unwrap();
    ufs.remove_directory("a/b/").await.unwrap();
    assert_eq!(ufs.stat("a/b").await.unwrap(), None);

    ufs.make_directory("d/sub/").await.unwrap();
    for number in 0..20 {
        let source = Plain::new(format!("{number}").as_bytes(), "t");
        ufs.store(&format!("d/sub/{number}"), &source, &Condition::Absent).await.unwrap();
    }
    ufs.rename_directory("d/", "e/f/", 100).await.unwrap();
    if shows_empty {
        assert_eq!(ufs.stat("d").await.unwrap(), None);
    }
    assert!((0..20).all(|number| holds(&format!("e/f/sub/{number}")) == Some(format!("{number}").into_bytes())));
}
