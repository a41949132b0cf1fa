//! S3-FIFO against plain LRU on traces: objects of very different sizes, asked for by Zipf's law, with and without scans.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::{Evictable, S3Fifo, Slot};

const OBJECTS: u64 = 10_000;
const REQUESTS: u64 = 150_000;
/// Of the bytes of all objects, what the cache holds.
const CAPACITY_PERCENT: u64 = 10;
/// As `content::HEAT_MAX`.
const HEAT_MAX: u8 = 3;
/// Keys of scans, each asked for once.
const SCANNED: u64 = 1 << 32;

struct Rng(u64);

impl Rng {
    /// xorshift64*, Vigna 2016.
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// From 4 KiB to 16 MiB, each power of two as likely as the next, fixed for each object.
fn size_of_object(key: u64) -> u64 {
    let mut rng = Rng(key.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    rng.next();
    (4096.0 * 2f64.powf(rng.unit() * 12.0)) as u64
}

/// Requests by Zipf's law with this exponent; with `scans` every tenth part ends with one over many other objects.
fn trace(exponent: f64, scans: bool) -> Vec<u64> {
    let mut sums = Vec::with_capacity(OBJECTS as usize);
    let mut sum = 0.0;
    for rank in 1..=OBJECTS {
        sum += (rank as f64).powf(-exponent);
        sums.push(sum);
    }
    let mut rng = Rng(42);
    let mut requests = Vec::new();
    for number in 0..REQUESTS {
        let point = rng.unit() * sum;
        requests.push(sums.partition_point(|sum| *sum < point) as u64);
        if scans && number % (REQUESTS / 10) == REQUESTS / 10 - 1 {
            requests.extend((0..OBJECTS / 4).map(|key| SCANNED + number * OBJECTS + key));
        }
    }
    requests
}

fn capacity() -> u64 {
    (0..OBJECTS).map(size_of_object).sum::<u64>() / 100 * CAPACITY_PERCENT
}

struct Object {
    key: u64,
    heat: Cell<u8>,
    slot: Slot,
}

impl Evictable for Rc<Object> {
    type Key = u64;

    fn key(&self) -> u64 {
        self.key
    }

    fn slot(&self) -> &Slot {
        &self.slot
    }

    fn take_access(&self) -> bool {
        let heat = self.heat.get();
        self.heat.set(heat.saturating_sub(1));
        heat > 0
    }

    fn is_gone(&self) -> bool {
        false
    }
}

fn hits_of_s3_fifo(requests: &[u64]) -> u64 {
    let capacity = capacity();
    let (mut queue, mut cached, mut used, mut hits) = (S3Fifo::default(), HashMap::new(), 0, 0);
    for key in requests {
        if let Some(object) = cached.get(key) {
            let object: &Rc<Object> = object;
            object.heat.set((object.heat.get() + 1).min(HEAT_MAX));
            hits += 1;
            continue;
        }
        let size = size_of_object(*key);
        while used + size > capacity {
            let victim: Rc<Object> = queue.victim().expect("something is cached");
            cached.remove(&victim.key);
            used -= size_of_object(victim.key);
        }
        let object = Rc::new(Object { key: *key, heat: Cell::new(0), slot: Slot::default() });
        queue.insert(object.clone());
        queue.reweigh(&object.slot, size);
        cached.insert(*key, object);
        used += size;
    }
    hits
}

fn hits_of_lru(requests: &[u64]) -> u64 {
    let capacity = capacity();
    let (mut by_age, mut cached, mut used, mut hits) = (BTreeMap::new(), HashMap::new(), 0, 0);
    for (now, key) in requests.iter().enumerate() {
        if let Some(last) = cached.insert(*key, now) {
            by_age.remove(&last);
            hits += 1;
        } else {
            let size = size_of_object(*key);
            while used + size > capacity {
                let (_, victim) = by_age.pop_first().expect("something is cached");
                cached.remove(&victim);
                used -= size_of_object(victim);
            }
            used += size;
        }
        by_age.insert(now, *key);
    }
    hits
}

#[test]
fn on_zipf_traces_more_is_found_than_by_lru() {
    for (exponent, scans) in [(0.8, false), (1.0, false), (1.0, true)] {
        let requests = trace(exponent, scans);
        let (ours, lru) = (hits_of_s3_fifo(&requests), hits_of_lru(&requests));
        let ratio = |hits: u64| hits as f64 / requests.len() as f64;
        println!("zipf {exponent}, scans {scans}: S3-FIFO {:.4}, LRU {:.4}", ratio(ours), ratio(lru));
        assert!(ours > lru, "zipf {exponent}, scans {scans}: {ours} against {lru} hits");
    }
}
