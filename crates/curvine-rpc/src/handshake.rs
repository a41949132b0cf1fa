//! The first frames of a connection: who the peers are, and the proof that both know the cluster's secret.
//!
//! Always: until the proof is checked, nothing above `HELLO_MAX` bytes is read or allocated for the other side; whoever
//! refuses says why, so that the reason stands in the logs of both ends.

use bytes::{Bytes, BytesMut};
use curvine_proto::frame::{FrameKind, HEADER_LEN, Header};
use curvine_proto::{Challenge, ErrorBody, Hello, Message, PeerRole, Proof, Welcome};
use curvine_types::{ClusterId, Error, ErrorKind, Result};
use hmac::{Hmac, KeyInit, Mac};
use rand::TryRng;
use rand::rngs::SysRng;
use sha2::Sha256;

use crate::socket::{ReadHalf, WriteHalf};
use crate::{Auth, Limits, crc32c};

/// Protocol versions spoken, lowest and highest.
const PROTOCOL: (u32, u32) = (1, 1);
/// Longest message of a handshake.
const HELLO_MAX: usize = 4096;
const NONCE_LEN: usize = 32;
const DIALER: &[u8] = b"curvine dialer";
const ACCEPTOR: &[u8] = b"curvine acceptor";

/// The dialer's part; gives the acceptor's Hello.
pub(crate) async fn dial(read: &mut ReadHalf, write: &WriteHalf, auth: &Auth, limits: &Limits) -> Result<Hello> {
    let ours = Bytes::from(hello(auth, limits)?.encode_to_vec());
    send(write, FrameKind::Handshake, &ours).await?;
    let challenge: Challenge = decode(receive(read).await?)?;
    let theirs: Hello = decode(challenge.hello.clone())?;
    let checked =
        check(auth, &theirs).and_then(|()| verify(auth, ACCEPTOR, &ours, &challenge.hello, &challenge.proof, &theirs));
    if let Err(error) = checked {
        refuse(write, &error).await;
        return Err(error);
    }
    let proof = prove(auth, DIALER, &ours, &challenge.hello)?.finalize().into_bytes();
    let message = Proof { proof: Bytes::copy_from_slice(&proof) };
    send(write, FrameKind::Handshake, &message.encode_to_vec()).await?;
    let welcome: Welcome = decode(receive(read).await?)?;
    if !(PROTOCOL.0..=PROTOCOL.1).contains(&welcome.protocol) {
        return Err(corrupt("the other side chose a protocol that was not offered"));
    }
    Ok(theirs)
}

/// The acceptor's part; gives the dialer's Hello. `admit` may still refuse a peer that has proved itself.
pub(crate) async fn accept(
    read: &mut ReadHalf,
    write: &WriteHalf,
    auth: &Auth,
    limits: &Limits,
    admit: impl FnOnce() -> Result<()>,
) -> Result<Hello> {
    let their_bytes = receive(read).await?;
    let outcome = async {
        let theirs: Hello = decode(their_bytes.clone())?;
        check(auth, &theirs)?;
        let ours = Bytes::from(hello(auth, limits)?.encode_to_vec());
        let proof = prove(auth, ACCEPTOR, &their_bytes, &ours)?.finalize().into_bytes();
        let challenge = Challenge { hello: ours.clone(), proof: Bytes::copy_from_slice(&proof) };
        send(write, FrameKind::Handshake, &challenge.encode_to_vec()).await?;
        let proof: Proof = decode(receive(read).await?)?;
        verify(auth, DIALER, &their_bytes, &ours, &proof.proof, &theirs)?;
        admit()?;
        let protocol = PROTOCOL.1.min(theirs.protocol);
        send(write, FrameKind::Handshake, &Welcome { protocol }.encode_to_vec()).await?;
        Ok(theirs)
    };
    let outcome = outcome.await;
    if let Err(error) = &outcome {
        refuse(write, error).await;
    }
    outcome
}

fn corrupt(message: &str) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

/// What we say of ourselves, with a fresh nonce.
fn hello(auth: &Auth, limits: &Limits) -> Result<Hello> {
    let mut nonce = [0; NONCE_LEN];
    SysRng.try_fill_bytes(&mut nonce).map_err(|error| {
        Error::new(ErrorKind::Internal, "the operating system gives no random numbers").caused_by(error)
    })?;
    Ok(Hello {
        protocol: PROTOCOL.1,
        protocol_min: PROTOCOL.0,
        role: auth.role as i32,
        cluster: auth.cluster.get().map(|cluster| Bytes::copy_from_slice(&cluster.0)).unwrap_or_default(),
        nonce: Bytes::copy_from_slice(&nonce),
        software: env!("CARGO_PKG_VERSION").to_string(),
        hostname: auth.hostname.clone(),
        id: auth.id,
        max_requests: u32::try_from(limits.max_inflight_per_connection).unwrap_or(u32::MAX),
    })
}

/// A role and a host name, for messages.
pub(crate) fn describe(hello: &Hello) -> String {
    end_name(hello.role(), &hello.hostname)
}

fn end_name(role: PeerRole, hostname: &str) -> String {
    let role = match role {
        PeerRole::Master => "master",
        PeerRole::Worker => "worker",
        PeerRole::Client => "client",
        PeerRole::Unknown => "peer",
    };
    format!("{role} {hostname}")
}

/// Whether we can talk to each other at all.
fn check(auth: &Auth, theirs: &Hello) -> Result<()> {
    let between = |error: Error| error.with("peer", describe(theirs)).with("here", end_name(auth.role, &auth.hostname));
    if theirs.nonce.len() != NONCE_LEN {
        return Err(between(corrupt("a handshake needs a nonce of 32 bytes").with("length", theirs.nonce.len())));
    }
    if theirs.protocol < PROTOCOL.0 || theirs.protocol_min > PROTOCOL.1 {
        return Err(between(
            Error::new(ErrorKind::Foreign, "no protocol version in common; bring both to neighbouring versions")
                .with("have", format!("{}..{}", PROTOCOL.0, PROTOCOL.1))
                .with("want", format!("{}..{}", theirs.protocol_min, theirs.protocol)),
        ));
    }
    if let (Some(ours), false) = (auth.cluster.get(), theirs.cluster.is_empty()) {
        let theirs = ClusterId::from_slice(&theirs.cluster).map_err(between)?;
        if theirs != ours {
            return Err(between(
                Error::new(ErrorKind::Foreign, "the peers belong to different clusters; compare the addresses")
                    .with("have", ours)
                    .with("want", theirs),
            ));
        }
    }
    Ok(())
}

/// HMAC-SHA256(secret, role || length of the dialer's Hello || dialer's Hello || acceptor's Hello).
fn prove(auth: &Auth, role: &[u8], dialer: &[u8], acceptor: &[u8]) -> Result<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(auth.secret.expose())
        .map_err(|error| Error::new(ErrorKind::Internal, "cannot use the cluster secret").caused_by(error))?;
    mac.update(role);
    mac.update(&(dialer.len() as u32).to_le_bytes());
    mac.update(dialer);
    mac.update(acceptor);
    Ok(mac)
}

fn verify(auth: &Auth, role: &[u8], dialer: &[u8], acceptor: &[u8], proof: &[u8], theirs: &Hello) -> Result<()> {
    // Compares in constant time.
    prove(auth, role, dialer, acceptor)?.verify_slice(proof).map_err(|_| {
        Error::new(ErrorKind::Unauthenticated, "the cluster secrets differ; compare the cluster secret of both ends")
            .with("peer", describe(theirs))
            .with("here", end_name(auth.role, &auth.hostname))
    })
}

/// Tells the other side why; it may be gone already.
async fn refuse(write: &WriteHalf, error: &Error) {
    let mut body = ErrorBody::from(error);
    body.message.truncate(body.message.floor_char_boundary(HELLO_MAX / 2));
    let _ = send(write, FrameKind::Error, &body.encode_to_vec()).await;
    write.finish();
}

async fn send(write: &WriteHalf, kind: FrameKind, meta: &[u8]) -> Result<()> {
    let header = Header {
        kind,
        flags: 0,
        method: 0,
        stream: 0,
        deadline_ms: 0,
        meta_len: u32::try_from(meta.len()).unwrap_or(u32::MAX),
        data_len: 0,
        meta_crc: crc32c(meta),
    };
    let mut bytes = BytesMut::with_capacity(HEADER_LEN + meta.len());
    bytes.extend_from_slice(&header.encode(crc32c));
    bytes.extend_from_slice(meta);
    write.write_all(&bytes).await.map_err(|error| Error::from_io(error, "the handshake was cut off"))
}

async fn receive(read: &mut ReadHalf) -> Result<Bytes> {
    let broken = |error: std::io::Error| {
        if error.kind() == std::io::ErrorKind::UnexpectedEof {
            return Error::new(ErrorKind::Unavailable, "the other side ended the handshake");
        }
        Error::from_io(error, "the handshake was cut off")
    };
    let mut header = [0; HEADER_LEN];
    read.read_exact(&mut header).await.map_err(broken)?;
    let header = Header::decode(&header, crc32c)?;
    let length = header.meta_len as usize;
    if length > HELLO_MAX || header.data_len > 0 {
        return Err(corrupt("a handshake is larger than the protocol allows").with("length", length));
    }
    let mut meta = vec![0; length];
    read.read_exact(&mut meta).await.map_err(broken)?;
    if crc32c(&meta) != header.meta_crc {
        return Err(corrupt("checksum of a handshake differs"));
    }
    match header.kind {
        FrameKind::Handshake => Ok(meta.into()),
        FrameKind::Error => Err(decode::<ErrorBody>(meta.into())?.into()),
        _ => Err(corrupt("a request came before the handshake")),
    }
}

fn decode<M: Message + Default>(bytes: Bytes) -> Result<M> {
    M::decode(bytes).map_err(|error| corrupt("malformed handshake").caused_by(error))
}

#[cfg(test)]
#[path = "handshake_test.rs"]
mod handshake_test;
