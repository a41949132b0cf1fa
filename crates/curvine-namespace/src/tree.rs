//! A persistent B+tree: cloning is O(1), a clone never sees later changes of the other.
//!
//! Always: all leaves are at the same depth, keys ascend, no node but an empty root is empty, and the key of a branch's
//! child is a lower bound of that child's keys (the first one's is not looked at). A node that is shared with a clone is
//! copied when it is changed, one that is not is changed in place. Keys and values lie in arrays of their own, so that a
//! search touches few cache lines; nodes grow by small steps, so that little memory is idle. Ascending runs fill their
//! leaves completely. Underfull nodes are merged when they fit well into a neighbour, and otherwise left as they are.

use std::sync::Arc;

/// Most entries of a node.
const FAN: usize = 64;
/// A node with fewer entries looks for a neighbour to merge with.
const LOW: usize = FAN / 4;
/// Most entries of a merged node, so that the next insertion does not split it again.
const MERGED: usize = FAN * 3 / 4;
/// Entries by which a full node's memory grows.
const STEP: usize = 8;

/// An ordered map with O(1) clones.
#[derive(Debug)]
pub struct Tree<K, V> {
    root: Arc<Node<K, V>>,
    len: usize,
}

#[derive(Debug)]
enum Node<K, V> {
    Leaf { keys: Vec<K>, values: Vec<V> },
    Branch { keys: Vec<K>, children: Vec<Arc<Node<K, V>>> },
}

/// What an insertion left behind: the value that was there, and a new right neighbour with its lower bound.
type Inserted<K, V> = (Option<V>, Option<(K, Arc<Node<K, V>>)>);

impl<K, V> Clone for Tree<K, V> {
    fn clone(&self) -> Self {
        Self { root: Arc::clone(&self.root), len: self.len }
    }
}

impl<K: Clone, V: Clone> Clone for Node<K, V> {
    fn clone(&self) -> Self {
        match self {
            Node::Leaf { keys, values } => Node::Leaf { keys: keys.clone(), values: values.clone() },
            Node::Branch { keys, children } => Node::Branch { keys: keys.clone(), children: children.clone() },
        }
    }
}

impl<K: Ord + Clone, V: Clone> Default for Tree<K, V> {
    fn default() -> Self {
        Self { root: Arc::new(Node::Leaf { keys: Vec::new(), values: Vec::new() }), len: 0 }
    }
}

impl<K: Ord + Clone, V: Clone> Tree<K, V> {
    /// A tree of entries that come in ascending order, each key once; much faster than inserting them.
    pub fn from_ascending(entries: impl Iterator<Item = (K, V)>) -> Self {
        let mut entries = entries.peekable();
        let (mut nodes, mut len) = (Vec::new(), 0);
        while let Some((first, _)) = entries.peek() {
            let bound = first.clone();
            let (keys, values): (Vec<K>, Vec<V>) = entries.by_ref().take(FAN).unzip();
            len += keys.len();
            nodes.push((bound, Arc::new(Node::Leaf { keys, values })));
        }
        while nodes.len() > 1 {
            let mut below = nodes.into_iter().peekable();
            nodes = Vec::new();
            while let Some((first, _)) = below.peek() {
                let bound = first.clone();
                let (keys, children) = below.by_ref().take(FAN).unzip();
                nodes.push((bound, Arc::new(Node::Branch { keys, children })));
            }
        }
        match nodes.pop() {
            Some((_, root)) => Self { root, len },
            None => Self::default(),
        }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf { keys, values } => return values.get(keys.binary_search(key).ok()?),
                Node::Branch { keys, children } => node = children.get(child_of(keys, key))?,
            }
        }
    }

    /// Whether the key is there.
    pub fn contains(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// The value of a key, to be changed in place.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let mut node = &mut self.root;
        loop {
            match Arc::make_mut(node) {
                Node::Leaf { keys, values } => return values.get_mut(keys.binary_search(key).ok()?),
                Node::Branch { keys, children } => node = children.get_mut(child_of(keys, key))?,
            }
        }
    }

    /// Sets the value of a key; the value that was there.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let (old, split) = insert(&mut self.root, key, value);
        if let Some((bound, right)) = split {
            let left = Arc::clone(&self.root);
            self.root = Arc::new(Node::Branch { keys: vec![bound.clone(), bound], children: vec![left, right] });
        }
        self.len += usize::from(old.is_none());
        old
    }

    /// Removes a key; the value that was there.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let old = remove(&mut self.root, key)?;
        self.len -= 1;
        while let Node::Branch { children, .. } = &*self.root {
            match children.as_slice() {
                [] => *self = Self::default(),
                [only] => self.root = Arc::clone(only),
                _ => break,
            }
        }
        Some(old)
    }

    /// The entries from `key` on, in ascending order.
    pub fn range(&self, key: &K) -> Iter<'_, K, V> {
        let mut path = Vec::with_capacity(8);
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf { keys, .. } => {
                    path.push((node, keys.partition_point(|have| have < key)));
                    return Iter { path };
                }
                Node::Branch { keys, children } => {
                    let index = child_of(keys, key);
                    path.push((node, index + 1));
                    match children.get(index) {
                        Some(child) => node = child,
                        None => return Iter { path },
                    }
                }
            }
        }
    }

    /// The first entry from `key` on.
    pub fn first_from(&self, key: &K) -> Option<(&K, &V)> {
        self.range(key).next()
    }

    /// All entries in ascending order.
    pub fn iter(&self) -> Iter<'_, K, V> {
        Iter { path: vec![(&*self.root, 0)] }
    }
}

/// Which child of a branch covers `key`.
fn child_of<K: Ord>(keys: &[K], key: &K) -> usize {
    keys.partition_point(|bound| bound <= key).saturating_sub(1)
}

/// Where a full node is cut when an entry comes in at `position`: at its end if entries come in ascending order.
fn cut_at(position: usize, len: usize) -> usize {
    if position == len { len } else { len / 2 }
}

fn grow<T>(items: &mut Vec<T>) {
    if items.len() == items.capacity() {
        items.reserve_exact(STEP);
    }
}

/// `split_off` that leaves no idle memory behind.
fn cut<T>(items: &mut Vec<T>, at: usize) -> Vec<T> {
    let right = items.split_off(at);
    items.shrink_to_fit();
    right
}

/// Inserts into two parallel arrays, cutting them if they are full: what was cut off, if anything.
fn insert_pair<A, B>(left: &mut Vec<A>, right: &mut Vec<B>, position: usize, a: A, b: B) -> Option<(Vec<A>, Vec<B>)> {
    if left.len() < FAN {
        grow(left);
        grow(right);
        left.insert(position, a);
        right.insert(position, b);
        return None;
    }
    let at = cut_at(position, left.len());
    let (mut more_left, mut more_right) = (cut(left, at), cut(right, at));
    if position < at {
        left.insert(position, a);
        right.insert(position, b);
    } else {
        more_left.insert(position - at, a);
        more_right.insert(position - at, b);
    }
    Some((more_left, more_right))
}

fn insert<K: Ord + Clone, V: Clone>(node: &mut Arc<Node<K, V>>, key: K, value: V) -> Inserted<K, V> {
    match Arc::make_mut(node) {
        Node::Leaf { keys, values } => match keys.binary_search(&key) {
            Ok(position) => (values.get_mut(position).map(|old| std::mem::replace(old, value)), None),
            Err(position) => {
                let cut_off = insert_pair(keys, values, position, key, value);
                let split = cut_off
                    .and_then(|(keys, values)| Some((keys.first()?.clone(), Arc::new(Node::Leaf { keys, values }))));
                (None, split)
            }
        },
        Node::Branch { keys, children } => {
            let index = child_of(keys, &key);
            let Some(child) = children.get_mut(index) else { return (None, None) };
            let (old, split) = insert(child, key, value);
            let Some((bound, right)) = split else { return (old, None) };
            let cut_off = insert_pair(keys, children, index + 1, bound, right);
            let split = cut_off
                .and_then(|(keys, children)| Some((keys.first()?.clone(), Arc::new(Node::Branch { keys, children }))));
            (old, split)
        }
    }
}

fn remove<K: Ord + Clone, V: Clone>(node: &mut Arc<Node<K, V>>, key: &K) -> Option<V> {
    match Arc::make_mut(node) {
        Node::Leaf { keys, values } => {
            let position = keys.binary_search(key).ok()?;
            keys.remove(position);
            let value = values.remove(position);
            if keys.capacity() > keys.len() + 2 * STEP {
                keys.shrink_to(keys.len() + STEP);
                values.shrink_to(values.len() + STEP);
            }
            Some(value)
        }
        Node::Branch { keys, children } => {
            let index = child_of(keys, key);
            let child = children.get_mut(index)?;
            let value = remove(child, key)?;
            match child.len() {
                0 => {
                    keys.remove(index);
                    children.remove(index);
                }
                len if len < LOW => merge_with_neighbour(keys, children, index),
                _ => {}
            }
            Some(value)
        }
    }
}

/// Joins a child with the one before or after it if the result leaves room.
fn merge_with_neighbour<K: Clone, V: Clone>(keys: &mut Vec<K>, children: &mut Vec<Arc<Node<K, V>>>, index: usize) {
    let fits = |left: usize| match children.get(left..left + 2) {
        Some([a, b]) => a.len() + b.len() <= MERGED,
        _ => false,
    };
    let left = if fits(index) {
        index
    } else if index > 0 && fits(index - 1) {
        index - 1
    } else {
        return;
    };
    keys.remove(left + 1);
    let right = Arc::unwrap_or_clone(children.remove(left + 1));
    match (children.get_mut(left).map(Arc::make_mut), right) {
        (Some(Node::Leaf { keys, values }), Node::Leaf { keys: more_keys, values: more_values }) => {
            keys.reserve_exact(more_keys.len());
            values.reserve_exact(more_values.len());
            keys.extend(more_keys);
            values.extend(more_values);
        }
        (Some(Node::Branch { keys, children }), Node::Branch { keys: more_keys, children: more_children }) => {
            keys.reserve_exact(more_keys.len());
            children.reserve_exact(more_children.len());
            keys.extend(more_keys);
            children.extend(more_children);
        }
        _ => debug_assert!(false, "neighbours are of the same depth"),
    }
}

impl<K, V> Node<K, V> {
    fn len(&self) -> usize {
        match self {
            Node::Leaf { keys, .. } | Node::Branch { keys, .. } => keys.len(),
        }
    }
}

/// Ascending entries of a tree.
pub struct Iter<'a, K, V> {
    /// From the root down: a node, and which of its entries comes next.
    path: Vec<(&'a Node<K, V>, usize)>,
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (node, next) = self.path.last_mut()?;
            let index = *next;
            *next += 1;
            match node {
                Node::Leaf { keys, values } => {
                    if let (Some(key), Some(value)) = (keys.get(index), values.get(index)) {
                        return Some((key, value));
                    }
                    self.path.pop();
                }
                Node::Branch { children, .. } => match children.get(index) {
                    Some(child) => self.path.push((child, 0)),
                    None => {
                        self.path.pop();
                    }
                },
            }
        }
    }
}

#[cfg(test)]
#[path = "tree_test.rs"]
mod tree_test;
