use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Panics where the tree's invariants do not hold; returns the depth.
fn check<K: Ord + Clone, V: Clone>(node: &Node<K, V>, is_root: bool) -> usize {
    assert!(is_root || node.len() > 0, "only an empty root may be empty");
    assert!(node.len() <= FAN);
    match node {
        Node::Leaf { keys, values } => {
            assert_eq!(keys.len(), values.len());
            assert!(keys.is_sorted_by(|a, b| a < b));
            1
        }
        Node::Branch { keys, children } => {
            assert_eq!(keys.len(), children.len());
            assert!(!is_root || keys.len() > 1, "a root with one child is replaced by it");
            assert!(keys.iter().skip(1).is_sorted_by(|a, b| a < b));
            for (position, child) in children.iter().enumerate().skip(1) {
                let least = smallest(child);
                assert!(keys[position] <= least);
                assert!(position + 1 == keys.len() || least < keys[position + 1]);
            }
            let depths: Vec<usize> = children.iter().map(|child| check(child, false)).collect();
            assert!(depths.windows(2).all(|pair| pair[0] == pair[1]));
            1 + depths[0]
        }
    }
}

fn smallest<K: Ord + Clone, V>(node: &Node<K, V>) -> K {
    match node {
        Node::Leaf { keys, .. } => keys[0].clone(),
        Node::Branch { children, .. } => smallest(&children[0]),
    }
}

fn leaves<K, V>(node: &Node<K, V>) -> usize {
    match node {
        Node::Leaf { .. } => 1,
        Node::Branch { children, .. } => children.iter().map(|child| leaves(child)).sum(),
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u16, u8),
    Remove(u16),
    RemoveRun(u16, u16),
    InsertRun(u16, u16),
    Change(u16, u8),
    Freeze,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0u16..2000;
    let step = prop_oneof![
        6 => (key.clone(), any::<u8>()).prop_map(|(k, v)| Step::Insert(k, v)),
        4 => key.clone().prop_map(Step::Remove),
        2 => (key.clone(), 0u16..300).prop_map(|(k, n)| Step::RemoveRun(k, n)),
        2 => (key.clone(), 0u16..300).prop_map(|(k, n)| Step::InsertRun(k, n)),
        2 => (key, any::<u8>()).prop_map(|(k, v)| Step::Change(k, v)),
        1 => Just(Step::Freeze),
    ];
    prop::collection::vec(step, 0..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn it_behaves_like_an_ordered_map_and_clones_stay_as_they_were(steps in steps()) {
        let mut tree = Tree::default();
        let mut model = BTreeMap::new();
        let mut frozen = Vec::new();
        for step in steps {
            match step {
                Step::Insert(key, value) => prop_assert_eq!(tree.insert(key, value), model.insert(key, value)),
                Step::Remove(key) => prop_assert_eq!(tree.remove(&key), model.remove(&key)),
                Step::RemoveRun(key, count) => for key in key..key + count {
                    prop_assert_eq!(tree.remove(&key), model.remove(&key));
                },
                Step::InsertRun(key, count) => for key in key..key + count {
                    prop_assert_eq!(tree.insert(key, 7), model.insert(key, 7));
                },
                Step::Change(key, value) => {
                    prop_assert_eq!(tree.get_mut(&key).map(|have| std::mem::replace(have, value)),
                        model.get_mut(&key).map(|have| std::mem::replace(have, value)));
                }
                Step::Freeze => frozen.push((tree.clone(), model.clone())),
            }
            check(&tree.root, true);
        }
        frozen.push((tree, model));
        for (tree, model) in frozen {
            prop_assert_eq!(tree.len(), model.len());
            prop_assert!(tree.iter().eq(model.iter()));
            for start in (0..2300).step_by(37) {
                prop_assert_eq!(tree.get(&start), model.get(&start));
                prop_assert!(tree.range(&start).eq(model.range(start..)));
            }
        }
    }
}

#[test]
fn ascending_keys_fill_their_leaves() {
    let mut tree = Tree::default();
    for key in 0..6400u32 {
        tree.insert(key, ());
    }
    assert_eq!(leaves(&tree.root), 6400 / FAN);
}

#[test]
fn an_emptied_tree_gives_its_nodes_back() {
    let mut tree = Tree::default();
    for key in 0..10_000u32 {
        tree.insert(key, key);
    }
    for key in (0..10_000).filter(|key| key % 100 != 0) {
        tree.remove(&key);
    }
    assert!(leaves(&tree.root) < 10, "100 entries are spread over {} leaves", leaves(&tree.root));
    for key in (0..10_000).step_by(100) {
        assert_eq!(tree.remove(&key), Some(key));
    }
    assert_eq!(check(&tree.root, true), 1);
    assert_eq!(tree.len(), 0);
}

#[test]
fn a_change_copies_only_the_path_to_it() {
    let mut tree = Tree::default();
    for key in 0..100_000u32 {
        tree.insert(key, 0u8);
    }
    let frozen = tree.clone();
    *tree.get_mut(&50_000).unwrap() = 1;
    let Node::Branch { children: new, .. } = &*tree.root else { panic!("a tree of this size has branches") };
    let Node::Branch { children: old, .. } = &*frozen.root else { panic!("a tree of this size has branches") };
    assert_eq!(new.iter().zip(old).filter(|(a, b)| !Arc::ptr_eq(a, b)).count(), 1);
    assert_eq!(frozen.get(&50_000), Some(&0));
}

#[test]
fn a_tree_made_of_ascending_entries_is_as_one_that_they_were_inserted_into() {
    for count in [0, 1, FAN, FAN + 1, FAN * FAN, FAN * FAN + 1, 2 * FAN * FAN + 77] {
        let entries = || (0..count as u64).map(|number| (number * 2, number));
        let mut tree = Tree::from_ascending(entries());
        check(&tree.root, true);
        assert_eq!(tree.len(), count);
        assert!(tree.iter().map(|(key, value)| (*key, *value)).eq(entries()), "{count}");
        assert!(entries().all(|(key, value)| tree.get(&key) == Some(&value) && tree.get(&(key + 1)).is_none()));
        for number in 0..count as u64 {
            tree.insert(number * 2 + 1, number);
        }
        check(&tree.root, true);
        for number in 0..count as u64 {
            tree.remove(&(number * 2));
        }
        check(&tree.root, true);
        assert_eq!(tree.len(), count);
    }
}
