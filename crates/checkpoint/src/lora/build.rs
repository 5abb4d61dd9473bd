//! An adapter from the tensors of one module.
//!
//! Everything is checked here, so that the runtime finds every matrix as large as it says: what is
//! missing, of another kind or of another shape is an error that names the key.

use super::adapter::{Adapter, Axis, BiasDelta, Delta, Factor, Magnitude, Matrix, Norm, Rotation};
use super::alphas::Alphas;
use super::control;
use super::error::LoraError;
use super::key::{Part, Role};
use super::names::Target;
use crate::decode::to_f32;
use crate::family::{Model, Widened};
use crate::file::Checkpoint;
use crate::layer::ComponentKind;

/// The highest rank that is believed, where a layer has no side that is longer. It bounds the memory that a
/// hostile file can ask for: a PyTorch file may hold few values and call them a large tensor.
const HIGHEST_RANK: usize = 4096;

/// The tensors that a file has for one module.
pub(super) struct Module<'f> {
    pub name: &'f str,
    /// Each tensor's role and key, in file order.
    pub tensors: Vec<(Role, &'f str)>,
}

impl<'f> Module<'f> {
    pub fn new(name: &'f str) -> Self {
        Self { name, tensors: Vec::new() }
    }

    pub fn keys(&self) -> impl Iterator<Item = &'f str> {
        self.tensors.iter().map(|(_, key)| *key)
    }

    /// Whether it changes nothing: a lonely alpha, or a shape alone.
    pub fn is_empty(&self) -> bool {
        self.tensors.iter().all(|(role, _)| matches!(role, Role::Alpha | Role::Reshape))
    }

    fn get(&self, role: Role) -> Option<&'f str> {
        self.tensors.iter().find(|(other, _)| *other == role).map(|(_, key)| *key)
    }

    /// Fails where two tensors have one role, or a role is not supported.
    fn check_roles(&self) -> Result<(), LoraError> {
        for (at, (role, key)) in self.tensors.iter().enumerate() {
            if let Role::Foreign(kind) = role {
                return Err(LoraError::Unsupported { key: (*key).to_owned(), kind });
            }
            let earlier = self.tensors.iter().take(at).find(|(other, _)| other == role);
            if let Some((_, first)) = earlier {
                return Err(conflict(first, key));
            }
        }
        Ok(())
    }
}

/// The target with a weight as wide as the file makes it, where that is wider than the model's.
pub(super) fn widened<'m>(
    file: &Checkpoint,
    module: &Module<'_>,
    target: &Target<'m>,
    model: &Model,
) -> Result<Option<(Target<'m>, Widened)>, LoraError> {
    let (key, [rows, columns]) = match module.get(Role::Reshape) {
        Some(key) => (key, reshaped(file, key)?),
        None => match (control::shape(file, module.name), module.get(Role::Down)) {
            (Some(shape), Some(key)) => (key, shape),
            _ => return Ok(None),
        },
    };
    let own = target.shape.as_slice();
    if own == [rows, columns] {
        return Ok(None);
    }
    let widened = Widened { layer: target.layer.name.clone(), columns };
    let diffusion = model.diffusion.as_ref();
    let fits = matches!(own, &[height, width] if height == rows && width < columns)
        && target.component == ComponentKind::DiffusionModel
        && diffusion.is_some_and(|diffusion| diffusion.widened(&widened).is_some());
    if !fits {
        let kind = "a LoRA that widens something else than the input of a Flux transformer to one of Canny, Depth or Fill";
        return Err(LoraError::Unsupported { key: key.to_owned(), kind });
    }
    Ok(Some((Target { shape: vec![rows, columns], ..target.clone() }, widened)))
}

/// The two sides of a weight that a tensor holds.
fn reshaped(file: &Checkpoint, key: &str) -> Result<[usize; 2], LoraError> {
    let odd = |found: String| LoraError::Reshape { key: key.to_owned(), found };
    let Some(info) = file.get(key) else { return Err(odd("missing".to_owned())) };
    if info.shape != [2] {
        return Err(odd(format!("a tensor of shape {:?}", info.shape)));
    }
    let values = to_f32(&file.bytes(key)?, info.dtype);
    // Counts that f32 holds exactly.
    let count = |value: f32| (1.0..16_777_216.0).contains(&value) && value.fract() == 0.0;
    match *values.as_slice() {
        [rows, columns] if count(rows) && count(columns) => Ok([rows as usize, columns as usize]),
        _ => Err(odd(format!("{values:?}"))),
    }
}

/// The adapter that a module's tensors make for a layer.
pub(super) fn adapter(
    file: &Checkpoint,
    alphas: &Alphas<'_>,
    module: &Module<'_>,
    target: &Target<'_>,
) -> Result<Adapter, LoraError> {
    module.check_roles()?;
    let build = Build { file, alphas, module, target };
    let delta = build.delta()?;
    let magnitude = build.magnitude(delta.is_some())?;
    let scale = match (&delta, delta.as_ref().and_then(rank)) {
        (_, Some(rank)) => alphas.scale(module.name, module.get(Role::Alpha), rank)?,
        (Some(Delta::Rotation(rotation)), None) if magnitude.is_some() => rotation.limit,
        _ => 1.0,
    };
    let weight = target.layer.params.first();
    Ok(Adapter {
        name: module.name.to_owned(),
        component: target.component,
        layer: target.layer.name.clone(),
        param: weight.map(|param| param.name.clone()).unwrap_or_default(),
        shape: target.shape.clone(),
        rows: target.rows.clone(),
        magnitude,
        bias: build.bias(delta.is_some())?,
        delta,
        scale,
    })
}

struct Build<'a> {
    file: &'a Checkpoint,
    alphas: &'a Alphas<'a>,
    module: &'a Module<'a>,
    target: &'a Target<'a>,
}

/// What kind of adapter a role belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    LowRank,
    Hadamard,
    Kronecker,
    Generalised,
    Rotation,
    Difference,
    Replacement,
}

impl Kind {
    fn of(role: Role) -> Option<Kind> {
        match role {
            Role::Up | Role::Down | Role::Mid => Some(Kind::LowRank),
            Role::Hada(..) => Some(Kind::Hadamard),
            Role::Lokr(..) => Some(Kind::Kronecker),
            Role::Glora(_) => Some(Kind::Generalised),
            Role::OftBlocks | Role::Rescale => Some(Kind::Rotation),
            Role::Diff => Some(Kind::Difference),
            Role::Set => Some(Kind::Replacement),
            _ => None,
        }
    }
}

impl Build<'_> {
    /// Rows of the module's weight.
    fn height(&self) -> usize {
        self.target.shape.first().copied().unwrap_or(1)
    }

    /// Values in a row of the module's weight.
    fn width(&self) -> usize {
        self.target.shape.iter().skip(1).product()
    }

    fn inputs(&self) -> usize {
        self.target.shape.get(1).copied().unwrap_or(1)
    }

    fn kernel(&self) -> usize {
        self.target.shape.iter().skip(2).product()
    }

    /// The change of the weight.
    fn delta(&self) -> Result<Option<Delta>, LoraError> {
        let tensors = self.module.tensors.iter();
        let mut kinds = tensors.filter_map(|(role, key)| Some((Kind::of(*role)?, *key)));
        let Some((kind, key)) = kinds.next() else { return Ok(None) };
        if let Some((_, other)) = kinds.find(|(other, _)| *other != kind) {
            return Err(conflict(key, other));
        }
        Ok(Some(match kind {
            Kind::LowRank => Delta::Plain(self.low_rank(key)?),
            Kind::Hadamard => Delta::Hadamard(self.hadamard(0, key)?, self.hadamard(1, key)?),
            Kind::Kronecker => self.kronecker(key)?,
            Kind::Generalised => self.generalised(key)?,
            Kind::Rotation => self.rotation(key)?,
            Kind::Difference => {
                Delta::Plain(Factor::Whole(self.matrix(key, self.height(), self.width())?))
            }
            Kind::Replacement => {
                Delta::Replacement(self.matrix(key, self.height(), self.width())?)
            }
        }))
    }

    fn low_rank(&self, beside: &str) -> Result<Factor, LoraError> {
        let up = self.need(Role::Up, beside, "`lora_up` (or `lora_B`)")?;
        let down = self.need(Role::Down, beside, "`lora_down` (or `lora_A`)")?;
        match self.module.get(Role::Mid) {
            None => self.product(up, down, self.height(), self.width()),
            Some(core) => {
                let core = self.core(core)?;
                Ok(Factor::Tucker {
                    up: self.matrix(up, self.height(), core.rows)?,
                    down: self.matrix(down, core.columns / self.kernel(), self.inputs())?,
                    core,
                })
            }
        }
    }

    fn hadamard(&self, at: usize, beside: &str) -> Result<Factor, LoraError> {
        let needed =
            if at == 0 { "`hada_w1_a` and `hada_w1_b`" } else { "`hada_w2_a` and `hada_w2_b`" };
        let a = self.need(Role::Hada(at, Part::A), beside, needed)?;
        let b = self.need(Role::Hada(at, Part::B), beside, needed)?;
        match self.module.get(Role::Hada(at, Part::Core)) {
            None => self.product(a, b, self.height(), self.width()),
            Some(core) => self.tucker(a, core, b, self.height(), self.inputs()),
        }
    }

    fn kronecker(&self, beside: &str) -> Result<Delta, LoraError> {
        let first = self.first_of_kronecker(beside)?;
        let (rows, columns) = (first.rows(), first.columns());
        if !divides(rows, self.height()) || !divides(columns, self.inputs()) {
            let (height, inputs) = (self.height(), self.inputs());
            let expected = format!("a `lokr_w1` whose sides divide {height} and {inputs}");
            return Err(self.shape(beside, expected));
        }
        let (height, inputs) = (self.height() / rows, self.inputs() / columns);
        let width = inputs * self.kernel();
        let part = |part| self.module.get(Role::Lokr(1, part));
        let second = match (part(Part::Whole), part(Part::A), part(Part::B)) {
            (Some(whole), None, None) => Factor::Whole(self.matrix(whole, height, width)?),
            (Some(whole), Some(factor), _) | (Some(whole), None, Some(factor)) => {
                return Err(conflict(whole, factor));
            }
            (None, Some(a), Some(b)) => match part(Part::Core) {
                None => self.product(a, b, height, width)?,
                Some(core) => self.tucker(a, core, b, height, inputs)?,
            },
            (None, ..) => {
                return Err(incomplete(beside, "`lokr_w2`, or `lokr_w2_a` and `lokr_w2_b`"));
            }
        };
        Ok(Delta::Kronecker(first, second))
    }

    fn first_of_kronecker(&self, beside: &str) -> Result<Factor, LoraError> {
        let part = |part| self.module.get(Role::Lokr(0, part));
        match (part(Part::Whole), part(Part::A), part(Part::B)) {
            (Some(key), None, None) => {
                let (rows, columns) = self.sides(key)?;
                Ok(Factor::Whole(self.matrix(key, rows, columns)?))
            }
            (Some(whole), Some(factor), _) | (Some(whole), None, Some(factor)) => {
                Err(conflict(whole, factor))
            }
            (None, Some(a), Some(b)) => self.product(a, b, self.sides(a)?.0, self.sides(b)?.1),
            (None, ..) => Err(incomplete(beside, "`lokr_w1`, or `lokr_w1_a` and `lokr_w1_b`")),
        }
    }

    /// GLoRA's four matrices, in the order of either layout: LyCORIS' first one multiplies by `a2 · a1` and adds
    /// `b2 · b1`, its later one by `a1 · a2` and `b1 · b2`. The shapes tell them apart, but for a square weight
    /// and a rank of its side, which is taken for the first, as in ComfyUI.
    fn generalised(&self, beside: &str) -> Result<Delta, LoraError> {
        let part = |at| self.need(Role::Glora(at), beside, "`a1`, `a2`, `b1` and `b2`");
        let [a1, a2, b1, b2] = [part(0)?, part(1)?, part(2)?, part(3)?];
        let (rows_of, columns_of) = (|key| Ok(self.sides(key)?.0), |key| Ok(self.sides(key)?.1));
        let same = |ranks: [Result<usize, LoraError>; 4]| -> Result<bool, LoraError> {
            let [a, b, c, d] = ranks;
            let (a, b, c, d) = (a?, b?, c?, d?);
            Ok(a == b && b == c && c == d)
        };
        let older = same([rows_of(a1), columns_of(a2), rows_of(b1), columns_of(b2)])?;
        let newer = same([columns_of(a1), rows_of(a2), columns_of(b1), rows_of(b2)])?;
        let square = self.height() == self.width() && rows_of(a2)? == self.height();
        let ([first, second], [up, down]) = match older && (square || !newer) {
            true => ([a2, a1], [b2, b1]),
            false => ([a1, a2], [b1, b2]),
        };
        let (inner, rank) = self.sides(first)?;
        if !self.is_rank(rank) || (inner != self.width() && inner != self.inputs()) {
            let (inputs, highest) = (self.inputs(), self.highest_rank());
            let expected = format!("[{inputs}, rank] of a rank from 1 to {highest}");
            return Err(self.shape(first, expected));
        }
        Ok(Delta::Generalised {
            first: self.matrix(first, inner, rank)?,
            second: self.matrix(second, rank, inner)?,
            added: self.product(up, down, self.height(), self.width())?,
        })
    }

    /// The blocks of an OFT, which have three dimensions, or of a BOFT, which have four.
    fn rotation(&self, beside: &str) -> Result<Delta, LoraError> {
        let key = self.need(Role::OftBlocks, beside, "`oft_blocks`")?;
        let Some(info) = self.file.get(key) else { return Err(incomplete(key, "its data")) };
        let height = self.height();
        let (stages, count, size, fits) = match *info.shape.as_slice() {
            [count, size, other] => (None, count, size, size == other),
            [stages, count, size, other] => {
                let pairs = self.pairs(stages, size);
                (Some(stages), count, size, size == other && pairs)
            }
            _ => (None, 0, 0, false),
        };
        if !fits || count.checked_mul(size) != Some(height) {
            let expected = format!(
                "[blocks, n, n], or [stages, blocks, n, n], with blocks × n = {height}, and for each \
                 stage i a multiple of 2ⁱ × n"
            );
            return Err(self.shape(key, expected));
        }
        if self.target.rows.iter().map(|span| span.count).sum::<usize>() != height {
            let kind = "an OFT or BOFT over fused layers";
            return Err(LoraError::Unsupported { key: key.to_owned(), kind });
        }
        let (rows, columns) = self.sides(key)?;
        let rescale = match (stages, self.module.get(Role::Rescale)) {
            // An OFT's is not used, as in ComfyUI.
            (None, _) | (_, None) => None,
            (Some(_), Some(key)) => {
                let (first, rest) = self.sides(key)?;
                if first * rest != height && first * rest != 1 {
                    return Err(self.shape(key, format!("[{height}, 1]")));
                }
                Some(self.matrix(key, first, rest)?)
            }
        };
        Ok(Delta::Rotation(Rotation {
            blocks: self.matrix(key, rows, columns)?,
            stages,
            count,
            size,
            limit: self.alphas.limit(self.module.get(Role::Alpha))?,
            rescale,
        }))
    }

    /// Whether the rows divide into the pairs that each of so many stages of a BOFT takes together.
    fn pairs(&self, stages: usize, size: usize) -> bool {
        let pair = u32::try_from(stages.saturating_sub(1))
            .ok()
            .and_then(|last| 2_usize.checked_pow(last)?.checked_mul(2 * (size / 2)));
        stages > 0 && pair.is_some_and(|pair| divides(pair, self.height()))
    }

    /// `up · down` for a matrix of this size.
    fn product(
        &self,
        up: &str,
        down: &str,
        rows: usize,
        columns: usize,
    ) -> Result<Factor, LoraError> {
        let (rank, width) = self.sides(down)?;
        if !self.is_rank(rank) || width != columns {
            let highest = self.highest_rank();
            return Err(
                self.shape(down, format!("[rank, {columns}] of a rank from 1 to {highest}"))
            );
        }
        Ok(Factor::LowRank {
            up: self.matrix(up, rows, rank)?,
            down: self.matrix(down, rank, columns)?,
        })
    }

    /// LyCORIS' form of Tucker's: the first factor is stored transposed.
    fn tucker(
        &self,
        up: &str,
        core: &str,
        down: &str,
        rows: usize,
        inputs: usize,
    ) -> Result<Factor, LoraError> {
        let core = self.core(core)?;
        let stored = self.matrix(up, core.rows, rows)?;
        Ok(Factor::Tucker {
            up: Matrix { rows, columns: core.rows, transposed: true, ..stored },
            down: self.matrix(down, core.columns / self.kernel(), inputs)?,
            core,
        })
    }

    /// The core `[p, q, kernel…]` of Tucker's form, as a matrix `[p, q × kernel]`.
    fn core(&self, key: &str) -> Result<Matrix, LoraError> {
        let (rows, columns) = self.sides(key)?;
        let shape = self.file.get(key).map_or(&[][..], |info| &info.shape);
        let ranks = shape.iter().take(2).all(|rank| self.is_rank(*rank));
        let kernel = shape.get(2..).unwrap_or_default().iter().product::<usize>();
        if shape.len() < 2 || !ranks || kernel != self.kernel() {
            let (kernel, highest) = (self.kernel(), self.highest_rank());
            let expected = format!(
                "[rank, rank, kernel…] of ranks from 1 to {highest} and a kernel of {kernel}"
            );
            return Err(self.shape(key, expected));
        }
        self.matrix(key, rows, columns)
    }

    fn is_rank(&self, rank: usize) -> bool {
        (1..=self.highest_rank()).contains(&rank)
    }

    fn highest_rank(&self) -> usize {
        HIGHEST_RANK.max(self.height()).max(self.width())
    }

    fn magnitude(&self, has_delta: bool) -> Result<Option<Magnitude>, LoraError> {
        let (key, of_outputs) =
            match (self.module.get(Role::MagnitudeVector), self.module.get(Role::DoraScale)) {
                (Some(first), Some(second)) => return Err(conflict(first, second)),
                (Some(key), None) => (key, true),
                (None, Some(key)) => (key, false),
                (None, None) => return Ok(None),
            };
        if !has_delta || self.module.get(Role::Set).is_some() {
            return Err(incomplete(key, "an adapter"));
        }
        let (first, rest) = self.sides(key)?;
        let (count, height, inputs) = (first * rest, self.height(), self.inputs());
        // PEFT's belong to outputs, whatever their shape; others say it by their shape.
        let axis = if count == height && (of_outputs || first == height) {
            Axis::Output
        } else if count == inputs && !of_outputs {
            Axis::Input
        } else if count == height {
            Axis::Output
        } else {
            return Err(self.shape(key, format!("{height} values, one for each output")));
        };
        let rows: usize = self.target.rows.iter().map(|span| span.count).sum();
        if axis == Axis::Input && rows != height {
            let kind = "a DoRA over the inputs of fused layers";
            return Err(LoraError::Unsupported { key: key.to_owned(), kind });
        }
        let norm = match axis {
            _ if of_outputs => Norm::Exact,
            Axis::Output => Norm::Before,
            Axis::Input => Norm::Changed,
        };
        Ok(Some(Magnitude { key: key.to_owned(), axis, norm }))
    }

    fn bias(&self, has_delta: bool) -> Result<Option<BiasDelta>, LoraError> {
        let (key, scaled) = match (self.module.get(Role::DiffBias), self.module.get(Role::UpBias)) {
            (Some(first), Some(second)) => return Err(conflict(first, second)),
            (Some(key), None) => (key, false),
            (None, Some(key)) if has_delta => (key, true),
            (None, Some(key)) => return Err(incomplete(key, "`lora_A` and `lora_B`")),
            (None, None) => return Ok(None),
        };
        let layer = &self.target.layer;
        if layer.param("bias").is_none() {
            return Err(LoraError::NoBias { key: key.to_owned(), layer: layer.name.clone() });
        }
        let (first, rest) = self.sides(key)?;
        if first * rest != self.height() {
            return Err(self.shape(key, format!("[{}]", self.height())));
        }
        Ok(Some(BiasDelta { key: key.to_owned(), scaled }))
    }

    fn need(&self, role: Role, beside: &str, needed: &'static str) -> Result<&str, LoraError> {
        self.module.get(role).ok_or_else(|| incomplete(beside, needed))
    }

    /// A tensor's first dimension and the product of the others.
    fn sides(&self, key: &str) -> Result<(usize, usize), LoraError> {
        let Some(info) = self.file.get(key) else { return Err(incomplete(key, "its data")) };
        if !info.dtype.is_float() {
            let dtype = info.dtype.name().to_owned();
            return Err(LoraError::Dtype { key: key.to_owned(), dtype });
        }
        match info.shape.as_slice() {
            [] => Ok((1, 1)),
            [first, rest @ ..] => Ok((*first, rest.iter().product())),
        }
    }

    /// A tensor as a matrix of this size; a vector may be a column.
    fn matrix(&self, key: &str, rows: usize, columns: usize) -> Result<Matrix, LoraError> {
        if self.sides(key)? != (rows, columns) {
            return Err(self.shape(key, format!("[{rows}, {columns}]")));
        }
        Ok(Matrix { key: key.to_owned(), rows, columns, transposed: false })
    }

    fn shape(&self, key: &str, expected: String) -> LoraError {
        let found = self.file.get(key).map(|info| info.shape.clone()).unwrap_or_default();
        let layer = self.target.layer.name.clone();
        let made_for = "another model".to_owned();
        LoraError::Shape { key: key.to_owned(), layer, expected, found, made_for }
    }
}

fn conflict(first: &str, second: &str) -> LoraError {
    LoraError::Conflict { first: first.to_owned(), second: second.to_owned() }
}

fn incomplete(key: &str, needed: &'static str) -> LoraError {
    LoraError::Incomplete { key: key.to_owned(), needed }
}

fn divides(part: usize, whole: usize) -> bool {
    part > 0 && whole.is_multiple_of(part)
}

/// The rank that an alpha is divided by; `None` where nothing is factored.
fn rank(delta: &Delta) -> Option<usize> {
    let of = |factor: &Factor| match factor {
        Factor::Whole(_) => None,
        Factor::LowRank { down, .. } | Factor::Tucker { down, .. } => Some(down.rows),
    };
    match delta {
        Delta::Plain(factor) => of(factor),
        Delta::Hadamard(first, second) | Delta::Kronecker(first, second) => {
            of(first).or_else(|| of(second))
        }
        Delta::Generalised { first, .. } => Some(first.columns),
        Delta::Rotation(_) | Delta::Replacement(_) => None,
    }
}
