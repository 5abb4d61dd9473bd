//! A restricted unpickler: it reads a pickle as data and runs nothing.
//!
//! A pickle is a program for a stack machine that may import and call anything. The machine here
//! carries out the opcodes (protocols 0 to 5, <https://github.com/python/cpython/blob/main/Lib/pickletools.py>)
//! symbolically: a call becomes an [`Object`] that remembers what was called with what, and only
//! names in a fixed table ([`Global`]) may be called at all. Any other is refused, by name.
//!
//! Bounds: a pickle's cost grows with the length of its input alone. Strings are borrowed from the input, each opcode makes
//! at most one value or node, there are at most [`MAX_OPS`] opcodes, and containers live in an
//! arena and refer to each other by number, so that neither depth nor cycles matter to reading
//! or dropping them.

mod global;
mod input;
mod machine;

pub use global::{Element, Global};
pub use machine::{MAX_OPS, read, read_from};

/// Number of a [`Node`] in its [`Pickle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeId(u32);

/// A value: small ones themselves, the others as the number of a node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer of at most 64 bits.
    Int(i64),
    /// A longer integer, whose value nothing here needs.
    BigInt,
    /// A float.
    Float(f64),
    /// A string, as it is in the input.
    Str(&'a str),
    /// Bytes, as they are in the input.
    Bytes(&'a [u8]),
    /// A function or class of the table.
    Global(Global),
    /// A container, an object, or a string that had to be decoded.
    Node(NodeId),
}

/// What doesn't fit in a [`Value`].
#[derive(Clone, Debug)]
pub enum Node<'a> {
    /// A string whose text in the input had escapes.
    Text(String),
    /// A tuple.
    Tuple(Vec<Value<'a>>),
    /// A list.
    List(Vec<Value<'a>>),
    /// A set or frozen set.
    Set(Vec<Value<'a>>),
    /// A dict: its items as they were set, keys may come twice.
    Dict(Vec<(Value<'a>, Value<'a>)>),
    /// A reference to something outside of the pickle: PyTorch's storages.
    Persistent(Value<'a>),
    /// What a call gave.
    Object(Box<Object<'a>>),
}

/// A call that was not made, and what was done to its result.
#[derive(Clone, Debug)]
pub struct Object<'a> {
    /// What was called.
    pub callee: Global,
    /// The tuple of its arguments.
    pub args: Value<'a>,
    /// Items that were set in it, as in a dict.
    pub items: Vec<(Value<'a>, Value<'a>)>,
    /// Elements that were appended to it, as to a list.
    pub elements: Vec<Value<'a>>,
    /// The state that it was given: mostly its attributes as a dict.
    pub state: Value<'a>,
}

/// A pickle that was read.
#[derive(Clone, Debug)]
pub struct Pickle<'a> {
    nodes: Vec<Node<'a>>,
    root: Value<'a>,
    end: usize,
}

impl<'a> Pickle<'a> {
    /// What the pickle is of.
    pub fn root(&self) -> Value<'a> {
        self.root
    }

    /// Where the input goes on behind the pickle.
    pub fn end(&self) -> usize {
        self.end
    }

    /// All nodes, reachable from the root or not, in the order in which they were made.
    pub fn nodes(&self) -> impl Iterator<Item = &Node<'a>> {
        self.nodes.iter()
    }

    /// The node of a value, if it is one.
    pub fn node(&self, value: Value<'a>) -> Option<&Node<'a>> {
        match value {
            Value::Node(NodeId(id)) => self.nodes.get(id as usize),
            _ => None,
        }
    }

    /// The text of a value, if it is a string.
    pub fn text<'s>(&'s self, value: Value<'a>) -> Option<&'s str>
    where
        'a: 's,
    {
        match value {
            Value::Str(text) => Some(text),
            _ => match self.node(value)? {
                Node::Text(text) => Some(text),
                _ => None,
            },
        }
    }

    /// The elements of a value, if it is a tuple or list (`torch.Size` too).
    pub fn sequence(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        match self.node(value)? {
            Node::Tuple(elements) | Node::List(elements) => Some(elements),
            Node::Object(object) if object.callee == Global::Size => {
                let [inner] = self.tuple(object.args)? else { return None };
                self.tuple(*inner)
            }
            _ => None,
        }
    }

    /// The elements of a value, if it is a tuple.
    pub fn tuple(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        match self.node(value)? {
            Node::Tuple(elements) => Some(elements),
            _ => None,
        }
    }

    /// The object of a value, if it is one.
    pub fn object(&self, value: Value<'a>) -> Option<&Object<'a>> {
        match self.node(value)? {
            Node::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The items of a value, if it is a dict or one of its kin (`OrderedDict`, `ParameterDict`, …).
    pub fn mapping(&self, value: Value<'a>) -> Option<Vec<(Value<'a>, Value<'a>)>> {
        match self.node(value)? {
            Node::Dict(items) => Some(items.clone()),
            Node::Object(object) if object.callee == Global::Mapping => {
                let mut items = self.pairs(object.args);
                items.extend(&object.items);
                Some(items)
            }
            Node::Object(object) if object.callee == Global::ParameterDict => {
                let Node::Dict(state) = self.node(object.state)? else { return None };
                let inner =
                    state.iter().rfind(|(key, _)| self.text(*key) == Some("_parameters"))?;
                match self.node(inner.1)? {
                    Node::Dict(items) => Some(items.clone()),
                    Node::Object(inner) if inner.callee == Global::Mapping => {
                        Some(inner.items.clone())
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// The pairs in the arguments of a mapping's constructor, as Python 2 pickles `OrderedDict`.
    fn pairs(&self, args: Value<'a>) -> Vec<(Value<'a>, Value<'a>)> {
        let Some([argument]) = self.tuple(args) else { return Vec::new() };
        match self.node(*argument) {
            Some(Node::Dict(items)) => items.clone(),
            Some(Node::List(pairs) | Node::Tuple(pairs)) => {
                let pair = |pair: &Value<'a>| match self.sequence(*pair)? {
                    [key, value] => Some((*key, *value)),
                    _ => None,
                };
                pairs.iter().filter_map(pair).collect()
            }
            _ => Vec::new(),
        }
    }
}
