//! Results of nodes, kept for later runs within a bound of memory.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value as Json;

use crate::value::Value;

/// What tells a node's result: a hash of its class, its inputs and those of its ancestors.
pub type Key = [u8; 32];

/// What a node gave.
#[derive(Debug)]
pub struct Entry {
    /// Its outputs, by slot.
    pub values: Vec<Value>,
    /// What it has to show.
    pub ui: Option<Json>,
}

impl Entry {
    fn bytes(&self) -> u64 {
        const OVERHEAD: u64 = 256;
        let shown = self.ui.as_ref().map_or(0, |ui| ui.to_string().len() as u64);
        self.values.iter().map(Value::bytes).sum::<u64>() + shown + OVERHEAD
    }
}

/// Results by key; the least recently used leave first.
#[derive(Debug)]
pub struct Cache {
    capacity: u64,
    bytes: u64,
    clock: u64,
    entries: HashMap<Key, (u64, Arc<Entry>)>,
}

impl Cache {
    /// A cache of so many bytes. One of 0 keeps nothing.
    pub fn new(capacity: u64) -> Self {
        Self { capacity, bytes: 0, clock: 0, entries: HashMap::new() }
    }

    /// The result of this key.
    pub fn get(&mut self, key: &Key) -> Option<Arc<Entry>> {
        self.clock += 1;
        let (used, entry) = self.entries.get_mut(key)?;
        *used = self.clock;
        Some(Arc::clone(entry))
    }

    /// Keeps a result, unless it is larger than the whole cache.
    pub fn insert(&mut self, key: Key, entry: Arc<Entry>) {
        let bytes = entry.bytes();
        if bytes > self.capacity {
            return;
        }
        self.clock += 1;
        self.bytes += bytes;
        if let Some((_, old)) = self.entries.insert(key, (self.clock, entry)) {
            self.bytes -= old.bytes();
        }
        while self.bytes > self.capacity && self.drop_oldest() {}
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    /// Bytes kept.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn drop_oldest(&mut self) -> bool {
        let oldest = self.entries.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| *key);
        match oldest.and_then(|key| self.entries.remove(&key)) {
            Some((_, entry)) => {
                self.bytes -= entry.bytes();
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use distorch_pipeline::image::Mask;

    fn entry(values: usize) -> Arc<Entry> {
        let mask = Mask::from_fn([1, 1, values], |_, _, _| 0.0);
        Arc::new(Entry { values: vec![Value::Mask(mask)], ui: None })
    }

    #[test]
    fn the_least_recently_used_leaves_first() {
        let mut cache = Cache::new(3000);
        for key in 0..2 {
            cache.insert([key; 32], entry(250));
        }
        assert!(cache.get(&[0; 32]).is_some());
        cache.insert([2; 32], entry(250));
        assert!(cache.get(&[1; 32]).is_none());
        assert!(cache.get(&[0; 32]).is_some() && cache.get(&[2; 32]).is_some());
        assert!(cache.bytes() <= 3000);
        cache.insert([3; 32], entry(10_000));
        assert!(cache.get(&[3; 32]).is_none() && cache.get(&[0; 32]).is_some());
        cache.insert([0; 32], entry(10));
        assert_eq!(cache.bytes(), 2 * 256 + 1000 + 40);
        cache.clear();
        assert_eq!(cache.bytes(), 0);
    }
}
