//! Framed, multiplexed, authenticated RPC over TCP and Unix sockets.
