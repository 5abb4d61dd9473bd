//! Who listens, and what waits to be sent to each. Sending never waits: a reader that is too slow misses previews first,
//! and is disconnected where it misses more.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::Notify;

use super::message::{Message, Preview};

/// Messages that may wait for one client. A prompt of 20 steps and 20 nodes makes about 100.
const MOST_WAITING: usize = 1024;

/// The clients. Copies are the same.
#[derive(Clone)]
pub struct Clients(Arc<Inner>);

struct Inner {
    most: usize,
    next: AtomicU64,
    connected: Mutex<HashMap<String, Client>>,
}

/// A connected client.
struct Client {
    /// Which connection of this client it is: an older one that ends does not end a newer.
    connection: u64,
    outbox: Arc<Outbox>,
    /// What it said that it can do.
    flags: Option<Value>,
    /// Whether it is sent what is meant for others too.
    watches: bool,
    reads_logs: bool,
}

impl Client {
    fn is_meant(&self, id: &str, to: To<'_>) -> bool {
        match to {
            To::All => true,
            To::One(one) => self.watches || id == one,
            To::Watchers => self.watches,
        }
    }

    fn takes_previews(&self, audience: Audience) -> bool {
        match audience {
            Audience::Nobody => false,
            Audience::Negotiated => self.flags.is_some(),
            Audience::Everybody => true,
        }
    }
}

/// Which of the clients that a preview is meant for are sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// None.
    Nobody,
    /// Those that said what they can do, as browsers' frontends do.
    Negotiated,
    /// All.
    Everybody,
}

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To<'a> {
    /// Everybody.
    All,
    /// The client of this id, and those that watch.
    One(&'a str),
    /// Those that watch.
    Watchers,
}

impl Clients {
    /// No clients yet, and at most so many.
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Inner { most, next: AtomicU64::new(0), connected: Mutex::default() }))
    }

    /// Sends a message. Clients that are not there miss it.
    pub fn send(&self, to: To<'_>, message: &Message) {
        for (id, client) in self.connected().iter() {
            if client.is_meant(id, to) {
                client.outbox.push(message.clone());
            }
        }
    }

    /// Sends a preview: to clients that said what they can do, or to all. Others may take a picture that they did not ask
    /// for to be the result, as some do.
    pub fn send_preview(&self, to: To<'_>, preview: &Preview, audience: Audience) {
        let message = Message::Preview(preview.clone());
        for (id, client) in self.connected().iter() {
            if client.is_meant(id, to) && client.takes_previews(audience) {
                client.outbox.push(message.clone());
            }
        }
    }

    /// Whether somebody would be sent a preview.
    pub fn takes_previews(&self, to: To<'_>, audience: Audience) -> bool {
        let connected = self.connected();
        connected
            .iter()
            .any(|(id, client)| client.is_meant(id, to) && client.takes_previews(audience))
    }

    /// Sends JSON.
    pub fn send_json(&self, to: To<'_>, kind: &str, data: &Value) {
        self.send(to, &Message::json(kind, data));
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.connected().len()
    }

    /// Says whether a client is to be sent the log.
    pub fn subscribe_logs(&self, id: &str, on: bool) {
        if let Some(client) = self.connected().get_mut(id) {
            client.reads_logs = on;
        }
    }

    /// Sends a line of the log to those that asked for it.
    pub fn tell_log(&self, time: &str, text: &str) {
        let connected = self.connected();
        let mut readers = connected.values().filter(|client| client.reads_logs).peekable();
        if readers.peek().is_none() {
            return;
        }
        let entries = json!({ "entries": [{ "t": time, "m": text }], "size": null });
        let message = Message::json("logs", &entries);
        readers.for_each(|client| client.outbox.push(message.clone()));
    }

    /// Ends all connections.
    pub fn close(&self) {
        self.connected().drain().for_each(|(_, client)| client.outbox.close());
    }

    /// Takes a client in; `None` where there are too many. A connection of the same id ends.
    ///
    /// What it is told first is made while no other message is sent: one comes behind it, or is of what it says.
    pub(super) fn enter(
        &self,
        id: &str,
        watches: bool,
        greeting: impl FnOnce() -> Vec<Message>,
    ) -> Option<Entry> {
        let mut connected = self.connected();
        if connected.len() >= self.0.most && !connected.contains_key(id) {
            return None;
        }
        let connection = self.0.next.fetch_add(1, Ordering::Relaxed);
        let outbox = Arc::new(Outbox::default());
        greeting().into_iter().for_each(|message| outbox.push(message));
        let entry = Entry {
            clients: self.clone(),
            id: id.to_owned(),
            connection,
            outbox: Arc::clone(&outbox),
        };
        let client = Client { connection, outbox, flags: None, watches, reads_logs: false };
        if let Some(older) = connected.insert(id.to_owned(), client) {
            older.outbox.close();
        }
        Some(entry)
    }

    fn connected(&self) -> MutexGuard<'_, HashMap<String, Client>> {
        self.0.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client's place among the others, until it is dropped.
pub(super) struct Entry {
    clients: Clients,
    pub id: String,
    connection: u64,
    pub outbox: Arc<Outbox>,
}

impl Entry {
    /// Keeps what the client says that it can do.
    pub fn set_flags(&self, flags: Value) {
        if let Some(client) = self.clients.connected().get_mut(&self.id)
            && client.connection == self.connection
        {
            client.flags = Some(flags);
        }
    }

    /// Whether it says that it can do something.
    pub fn can(&self, flag: &str) -> bool {
        let connected = self.clients.connected();
        let flags = connected.get(&self.id).and_then(|client| client.flags.as_ref());
        flags.is_some_and(|flags| flags[flag] == json!(true))
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut connected = self.clients.connected();
        if connected.get(&self.id).is_some_and(|client| client.connection == self.connection) {
            connected.remove(&self.id);
        }
    }
}

/// What waits to be sent to a client.
#[derive(Default)]
pub(super) struct Outbox {
    waiting: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<Message>,
    closed: bool,
}

impl Outbox {
    /// Adds a message. A preview takes the place of one that still waits.
    pub fn push(&self, message: Message) {
        let mut waiting = self.waiting();
        if waiting.closed {
            return;
        }
        let is_preview = |message: &Message| matches!(message, Message::Preview(_));
        if is_preview(&message) || waiting.messages.len() >= MOST_WAITING {
            waiting.messages.retain(|message| !is_preview(message));
        }
        match waiting.messages.len() >= MOST_WAITING {
            true if is_preview(&message) => {}
            true => {
                waiting.messages.clear();
                waiting.closed = true;
            }
            false => waiting.messages.push_back(message),
        }
        drop(waiting);
        self.changed.notify_one();
    }

    /// Takes no more; what waits is still sent.
    pub fn close(&self) {
        self.waiting().closed = true;
        self.changed.notify_one();
    }

    /// The next message, waited for; `None` where there will be none.
    pub async fn next(&self) -> Option<Message> {
        loop {
            let changed = self.changed.notified();
            {
                let mut waiting = self.waiting();
                if let Some(message) = waiting.messages.pop_front() {
                    return Some(message);
                }
                if waiting.closed {
                    return None;
                }
            }
            changed.await;
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::PictureFormat;
    use super::*;

    fn preview(file: &[u8]) -> Message {
        Message::Preview(Preview::new(file, PictureFormat::Jpeg, "1", "p"))
    }

    async fn received(outbox: &Outbox) -> Vec<Vec<u8>> {
        outbox.close();
        let mut all = Vec::new();
        while let Some(message) = outbox.next().await {
            all.push(message.frame(false).into_data().to_vec());
        }
        all
    }

    #[tokio::test]
    async fn a_slow_reader_misses_previews_and_nothing_else() {
        let outbox = Outbox::default();
        for number in 0..10 {
            outbox.push(preview(&[number]));
            outbox.push(Message::json("progress", &json!(number)));
        }
        let all = received(&outbox).await;
        assert_eq!(all.len(), 11);
        assert_eq!(all[9], [0, 0, 0, 1, 0, 0, 0, 1, 9]);
        assert_eq!(all[10], br#"{"data":9,"type":"progress"}"#);
    }

    #[tokio::test]
    async fn a_hopeless_reader_is_disconnected() {
        let outbox = Outbox::default();
        outbox.push(preview(b"x"));
        for number in 0..MOST_WAITING {
            outbox.push(Message::json("progress", &json!(number)));
        }
        // The preview made room; nothing else does.
        outbox.push(preview(b"y"));
        assert_eq!(outbox.waiting().messages.len(), MOST_WAITING);
        outbox.push(Message::json("progress", &json!("one more")));
        assert!(outbox.next().await.is_none());
    }

    #[tokio::test]
    async fn messages_reach_those_whom_they_are_for() {
        let clients = Clients::new(3);
        let [one, two] = ["1", "2"].map(|id| clients.enter(id, false, Vec::new).unwrap());
        let watcher = clients.enter("3", true, Vec::new).unwrap();
        assert!(clients.enter("4", false, Vec::new).is_none(), "more than there may be");
        clients.send_json(To::One("1"), "a", &json!(1));
        clients.send_json(To::One("nobody"), "b", &json!(2));
        clients.send_json(To::All, "c", &json!(3));
        clients.subscribe_logs("2", true);
        clients.tell_log("now", "line");
        let lengths = [&one, &two, &watcher].map(|entry| entry.outbox.waiting().messages.len());
        assert_eq!(lengths, [2, 2, 3]);
        // Previews go to those that said what they can do, unless all are to have them.
        let takes = |to, audience| clients.takes_previews(to, audience);
        assert!(takes(To::One("nobody"), Audience::Everybody), "one that watches");
        assert!(!takes(To::All, Audience::Negotiated) && !takes(To::All, Audience::Nobody));
        two.set_flags(json!({}));
        assert!(takes(To::One("2"), Audience::Negotiated));
        drop(watcher);
        assert!(!takes(To::One("nobody"), Audience::Everybody));
    }

    #[tokio::test]
    async fn nothing_comes_before_the_greeting() {
        let clients = Clients::new(1);
        let all = clients.clone();
        let entry = clients.enter("1", false, || {
            // Others send from other threads, which wait until this client is in.
            let sent = std::thread::spawn(move || all.send_json(To::All, "status", &json!(1)));
            drop(sent);
            vec![Message::json("feature_flags", &json!({}))]
        });
        clients.send_json(To::All, "last", &json!(2));
        let all = received(&entry.unwrap().outbox).await;
        assert_eq!(all[0], br#"{"data":{},"type":"feature_flags"}"#);
    }

    #[tokio::test]
    async fn a_client_that_comes_again_takes_the_place_of_its_older_connection() {
        let clients = Clients::new(1);
        let older = clients.enter("1", false, Vec::new).unwrap();
        older.set_flags(json!({ "supports_preview_metadata": true }));
        let newer = clients.enter("1", false, Vec::new).unwrap();
        assert!(older.outbox.next().await.is_none());
        drop(older);
        assert_eq!(clients.count(), 1);
        assert!(!newer.can("supports_preview_metadata"));
        newer.set_flags(json!({ "supports_preview_metadata": true }));
        assert!(newer.can("supports_preview_metadata"));
    }
}
