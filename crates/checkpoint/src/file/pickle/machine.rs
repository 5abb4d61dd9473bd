//! The stack machine that a pickle is a program for.

use std::collections::HashMap;

use super::global::Global;
use super::input::Input;
use super::{Node, NodeId, Object, Pickle, Value};
use crate::file::error::Problem;

/// The most opcodes of one pickle. The pickle of a Flux checkpoint has about 40,000.
pub const MAX_OPS: u32 = 4_000_000;

/// The longest run of digits of a text integer.
const MAX_DIGITS: usize = 4096;

/// Reads the pickle that `bytes` start with.
///
/// # Errors
/// [`Problem::RefusedGlobal`] for a name that is not in the table, [`Problem::Pickle`] for a
/// pickle that is damaged or goes past a bound.
pub fn read(bytes: &[u8]) -> Result<Pickle<'_>, Problem> {
    read_from(bytes, 0)
}

/// Reads the pickle that starts at this position of `bytes`; errors count from the start of `bytes`.
///
/// # Errors
/// As [`read`].
pub fn read_from(bytes: &[u8], start: usize) -> Result<Pickle<'_>, Problem> {
    let mut machine = Machine {
        input: Input::new(bytes, start),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        nodes: Vec::new(),
    };
    for _ in 0..MAX_OPS {
        let opcode = machine.input.opcode()?;
        if opcode == b'.' {
            let root = machine.pop()?;
            return Ok(Pickle { nodes: machine.nodes, root, end: machine.input.position() });
        }
        machine.step(opcode)?;
    }
    Err(machine.input.bad(format!("more than {MAX_OPS} opcodes")))
}

struct Machine<'a> {
    input: Input<'a>,
    stack: Vec<Value<'a>>,
    /// Heights of the stack at the marks that are open.
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    nodes: Vec<Node<'a>>,
}

impl<'a> Machine<'a> {
    /// Carries out one opcode. Its argument, if any, follows in the input.
    fn step(&mut self, opcode: u8) -> Result<(), Problem> {
        match opcode {
            // PROTO
            0x80 => match self.input.u8()? {
                0..=5 => Ok(()),
                version => Err(self.input.bad(format!("pickle protocol {version} is not known"))),
            },
            // FRAME: a hint for readers of streams.
            0x95 => self.input.take(8).map(drop),
            b'(' | b'0' | b'1' | b'2' => self.arrange(opcode),
            b'p' | b'q' | b'r' | 0x94 | b'g' | b'h' | b'j' => self.memoize(opcode),
            b'N' | b'I' | b'J' | b'K' | b'L' | b'M' | b'F' | b'G' | 0x88..=0x8b => {
                self.number(opcode).map(|value| self.stack.push(value))
            }
            b'S' | b'T' | b'U' | b'V' | b'X' | b'B' | b'C' | 0x8c..=0x8e | 0x96 => {
                self.string(opcode).map(|value| self.stack.push(value))
            }
            b')' | b't' | 0x85..=0x87 | b']' | b'l' | b'}' | b'd' | 0x8f | 0x91 => {
                self.container(opcode).map(|node| self.push_node(node))
            }
            b'a' | b'e' | b's' | b'u' | 0x90 => self.fill(opcode),
            b'c' | 0x93 => self.global(opcode).map(|global| self.stack.push(Value::Global(global))),
            b'R' | 0x81 | 0x92 | b'o' | b'i' => self.call(opcode),
            b'b' => self.build(),
            b'P' | b'Q' => self.persistent(opcode),
            0x82..=0x84 => Err(self.input.bad("extension codes name globals that are not in it")),
            0x97 | 0x98 => Err(self.input.bad("buffers outside of the pickle are not read")),
            _ => Err(self.input.bad(format!("unknown opcode 0x{opcode:02x}"))),
        }
    }

    fn arrange(&mut self, opcode: u8) -> Result<(), Problem> {
        match opcode {
            b'(' => self.marks.push(self.stack.len()),
            b'0' if self.marks.last() == Some(&self.stack.len()) => drop(self.marks.pop()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_to_mark()?),
            _ => {
                let top = self.pop()?;
                self.stack.extend([top, top]);
            }
        }
        Ok(())
    }

    fn memoize(&mut self, opcode: u8) -> Result<(), Problem> {
        let key = match opcode {
            0x94 => self.memo.len() as u32, // No more entries than opcodes.
            b'q' | b'h' => self.input.u8()?.into(),
            b'r' | b'j' => self.input.u32()?,
            _ => {
                let line = self.input.text_line()?;
                line.parse().map_err(|_| self.input.bad("a memo key that is no number"))?
            }
        };
        if matches!(opcode, b'g' | b'h' | b'j') {
            let Some(&value) = self.memo.get(&key) else {
                return Err(self.input.bad(format!("nothing was memoized as {key}")));
            };
            self.stack.push(value);
            return Ok(());
        }
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn number(&mut self, opcode: u8) -> Result<Value<'a>, Problem> {
        Ok(match opcode {
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'J' => Value::Int(self.input.i32()?.into()),
            b'K' => Value::Int(self.input.u8()?.into()),
            b'M' => Value::Int(self.input.u16()?.into()),
            b'G' => Value::Float(self.input.f64_be()?),
            0x8a => long(self.input.counted_u8()?),
            0x8b => long(self.input.counted_i32()?),
            b'F' => {
                let line = self.input.text_line()?;
                Value::Float(line.parse().map_err(|_| self.input.bad("a float that is none"))?)
            }
            _ => {
                let line = self.input.text_line()?;
                match (opcode, line) {
                    (b'I', "00") => Value::Bool(false),
                    (b'I', "01") => Value::Bool(true),
                    _ => self.decimal(line.strip_suffix('L').unwrap_or(line))?,
                }
            }
        })
    }

    fn decimal(&self, digits: &str) -> Result<Value<'a>, Problem> {
        if let Ok(value) = digits.parse() {
            return Ok(Value::Int(value));
        }
        let unsigned = digits.strip_prefix('-').unwrap_or(digits);
        let all_digits = !unsigned.is_empty() && unsigned.bytes().all(|byte| byte.is_ascii_digit());
        if all_digits && unsigned.len() <= MAX_DIGITS {
            Ok(Value::BigInt)
        } else {
            Err(self.input.bad("an integer that is none"))
        }
    }

    fn string(&mut self, opcode: u8) -> Result<Value<'a>, Problem> {
        let bytes = match opcode {
            b'S' | b'V' => return self.escaped(opcode),
            b'U' | b'C' | 0x8c => self.input.counted_u8()?,
            b'T' => self.input.counted_i32()?,
            b'X' | b'B' => self.input.counted_u32()?,
            _ => self.input.counted_u64()?,
        };
        match opcode {
            // Python 2's strings: text mostly, but any bytes may be in them.
            b'T' | b'U' => Ok(std::str::from_utf8(bytes).map_or(Value::Bytes(bytes), Value::Str)),
            b'B' | b'C' | 0x8e | 0x96 => Ok(Value::Bytes(bytes)),
            _ => self.input.utf8(bytes).map(Value::Str),
        }
    }

    /// A string of protocol 0: a Python literal (`S`) or text with `\u` escapes (`V`).
    fn escaped(&mut self, opcode: u8) -> Result<Value<'a>, Problem> {
        let line = self.input.line()?;
        let body = match (opcode, line) {
            (b'V', _) => line,
            (_, [b'\'', body @ .., b'\''] | [b'"', body @ .., b'"']) => body,
            _ => return Err(self.input.bad("a string without quotes")),
        };
        if body.is_ascii() && !body.contains(&b'\\') {
            return self.input.utf8(body).map(Value::Str);
        }
        let text = unescape(body, opcode == b'S')
            .ok_or_else(|| self.input.bad("a string with a bad escape"))?;
        Ok(self.add(Node::Text(text)))
    }

    fn container(&mut self, opcode: u8) -> Result<Node<'a>, Problem> {
        Ok(match opcode {
            b')' => Node::Tuple(Vec::new()),
            b't' => Node::Tuple(self.pop_to_mark()?),
            0x85..=0x87 => Node::Tuple(self.pop_many(usize::from(opcode - 0x84))?),
            b']' => Node::List(Vec::new()),
            b'l' => Node::List(self.pop_to_mark()?),
            b'}' => Node::Dict(Vec::new()),
            b'd' => {
                let flat = self.pop_to_mark()?;
                Node::Dict(self.pairs(&flat)?)
            }
            0x8f => Node::Set(Vec::new()),
            _ => Node::Set(self.pop_to_mark()?),
        })
    }

    /// Puts values into the container below them on the stack.
    fn fill(&mut self, opcode: u8) -> Result<(), Problem> {
        let values = match opcode {
            b'a' => self.pop_many(1)?,
            b's' => self.pop_many(2)?,
            _ => self.pop_to_mark()?,
        };
        let target = self.top()?;
        if matches!(opcode, b's' | b'u') {
            let pairs = self.pairs(&values)?;
            match self.node_mut(target) {
                Some(Node::Dict(items)) => items.extend(pairs),
                Some(Node::Object(object)) => object.items.extend(pairs),
                _ => return Err(self.input.bad("items are set in what is no dict")),
            }
        } else {
            match self.node_mut(target) {
                Some(Node::List(list)) if opcode != 0x90 => list.extend(values),
                Some(Node::Set(set)) if opcode == 0x90 => set.extend(values),
                Some(Node::Object(object)) => object.elements.extend(values),
                _ => return Err(self.input.bad("elements are added to what is no list or set")),
            }
        }
        Ok(())
    }

    /// A call, which becomes an object.
    fn call(&mut self, opcode: u8) -> Result<(), Problem> {
        let (callee, args) = match opcode {
            b'i' => {
                let callee = self.global(b'c')?;
                (Value::Global(callee), Node::Tuple(self.pop_to_mark()?))
            }
            b'o' => {
                let mut values = self.pop_to_mark()?.into_iter();
                let callee = values.next().unwrap_or(Value::None);
                (callee, Node::Tuple(values.collect()))
            }
            _ => {
                if opcode == 0x92 {
                    let _keywords = self.pop()?;
                }
                let args = self.pop()?;
                let callee = self.pop()?;
                self.push_call(callee, args)?;
                return Ok(());
            }
        };
        let args = self.add(args);
        self.push_call(callee, args)
    }

    fn push_call(&mut self, callee: Value<'a>, args: Value<'a>) -> Result<(), Problem> {
        let callee = match callee {
            Value::Global(Global::Storage(_) | Global::Dtype(_)) => {
                return Err(self.input.bad("a storage class or dtype is called"));
            }
            Value::Global(callee) => callee,
            _ => return Err(self.input.bad("what is no function or class is called")),
        };
        let state = Value::None;
        let object = Object { callee, args, items: Vec::new(), elements: Vec::new(), state };
        self.push_node(Node::Object(Box::new(object)));
        Ok(())
    }

    /// Gives an object its state.
    fn build(&mut self) -> Result<(), Problem> {
        let state = self.pop()?;
        let target = self.top()?;
        match self.node_mut(target) {
            Some(Node::Object(object)) => object.state = state,
            _ => return Err(self.input.bad("a state is given to what is no object")),
        }
        Ok(())
    }

    fn persistent(&mut self, opcode: u8) -> Result<(), Problem> {
        let id = match opcode {
            b'Q' => self.pop()?,
            _ => Value::Str(self.input.text_line()?),
        };
        self.push_node(Node::Persistent(id));
        Ok(())
    }

    /// The global whose module and name are in the input (`c`) or on the stack.
    fn global(&mut self, opcode: u8) -> Result<Global, Problem> {
        let (module, name) = if opcode == b'c' {
            (self.input.text_line()?, self.input.text_line()?)
        } else {
            let (name, module) = (self.pop()?, self.pop()?);
            let (Value::Str(module), Value::Str(name)) = (module, name) else {
                return Err(self.input.bad("a global whose name is no string"));
            };
            (module, name)
        };
        Global::find(module, name).ok_or_else(|| Problem::RefusedGlobal {
            global: format!("{module}.{name}"),
            offset: self.input.opcode_position(),
        })
    }

    fn push_node(&mut self, node: Node<'a>) {
        let value = self.add(node);
        self.stack.push(value);
    }

    fn add(&mut self, node: Node<'a>) -> Value<'a> {
        // Two nodes an opcode at most: the number can't overflow.
        let id = NodeId(self.nodes.len() as u32);
        self.nodes.push(node);
        Value::Node(id)
    }

    fn node_mut(&mut self, value: Value<'a>) -> Option<&mut Node<'a>> {
        match value {
            Value::Node(NodeId(id)) => self.nodes.get_mut(id as usize),
            _ => None,
        }
    }

    /// Takes the top of the stack, which may not be below an open mark.
    fn pop(&mut self) -> Result<Value<'a>, Problem> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.pop() {
            Some(value) if self.stack.len() >= floor => Ok(value),
            _ => Err(self.input.bad("the stack is empty")),
        }
    }

    /// The top of the stack, left there.
    fn top(&mut self) -> Result<Value<'a>, Problem> {
        let top = self.pop()?;
        self.stack.push(top);
        Ok(top)
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Value<'a>>, Problem> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(count) {
            Some(height) if height >= floor => Ok(self.stack.split_off(height)),
            _ => Err(self.input.bad("the stack is empty")),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value<'a>>, Problem> {
        let height = self.marks.pop().ok_or_else(|| self.input.bad("there is no mark"))?;
        Ok(self.stack.split_off(height))
    }

    fn pairs(&self, flat: &[Value<'a>]) -> Result<Vec<(Value<'a>, Value<'a>)>, Problem> {
        let (pairs, rest) = flat.as_chunks::<2>();
        match rest {
            [] => Ok(pairs.iter().map(|&[key, value]| (key, value)).collect()),
            _ => Err(self.input.bad("a key without a value")),
        }
    }
}

/// A little-endian integer in two's complement, of any length.
fn long<'a>(bytes: &[u8]) -> Value<'a> {
    let Some(&last) = bytes.last() else { return Value::Int(0) };
    if bytes.len() > 8 {
        return Value::BigInt;
    }
    let mut wide = [if last & 0x80 == 0 { 0 } else { 0xff }; 8];
    for (wide, byte) in wide.iter_mut().zip(bytes) {
        *wide = *byte;
    }
    Value::Int(i64::from_le_bytes(wide))
}

/// Decodes the escapes of a Python string literal, or of `raw-unicode-escape` alone. Bytes over 127
/// are Latin-1, as in Python.
fn unescape(body: &[u8], literal: bool) -> Option<String> {
    let mut text = String::with_capacity(body.len());
    let mut rest = body.iter().map(|&byte| char::from(byte));
    while let Some(c) = rest.next() {
        if c != '\\' {
            text.push(c);
            continue;
        }
        let escape = rest.next()?;
        let digits = match escape {
            'u' => 4,
            'U' => 8,
            'x' if literal => 2,
            _ if literal => {
                text.push(simple_escape(escape)?);
                continue;
            }
            _ => {
                text.extend(['\\', escape]);
                continue;
            }
        };
        let code = (0..digits)
            .try_fold(0u32, |code, _| Some(code.checked_mul(16)? + rest.next()?.to_digit(16)?))?;
        text.push(char::from_u32(code)?);
    }
    Some(text)
}

fn simple_escape(escape: char) -> Option<char> {
    Some(match escape {
        'n' => '\n',
        't' => '\t',
        'r' => '\r',
        '0' => '\0',
        '\\' | '\'' | '"' => escape,
        _ => return None,
    })
}
