//! The token table of a text encoder, with vectors of textual inversions in place of rows.

use distorch_runtime::tensor::TensorData;
use distorch_runtime::{DType, Device, IntTensor, Scope, Tensor};

use crate::ModelError;
use crate::layers::Embedding;
use crate::prompt::token::Token;

/// A token table.
pub(crate) struct TokenTable {
    /// The text encoder, for errors.
    model: &'static str,
    table: Embedding,
    rows: usize,
    width: usize,
    /// Tokens of a text at most.
    longest: usize,
    device: Device,
}

impl TokenTable {
    /// The layer `name` of the scope with `rows` rows of `width` values, for texts of at most `longest` tokens.
    pub fn load(
        scope: &Scope,
        name: &str,
        model: &'static str,
        [rows, width]: [usize; 2],
        longest: usize,
    ) -> Result<Self, ModelError> {
        let table = Embedding::load(scope, name)?;
        Ok(Self { model, table, rows, width, longest, device: scope.device().clone() })
    }

    /// Where the vectors are looked up.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The text encoder, for errors.
    pub fn model(&self) -> &'static str {
        self.model
    }

    /// The vectors of texts of equally many tokens, `[texts, tokens, width]` in f32.
    pub fn forward(&self, texts: &[Vec<Token>]) -> Result<Tensor<3>, ModelError> {
        let length = self.check(texts)?;
        let id = |token: &Token| match token {
            Token::Id(id) => *id as i32, // below the number of rows
            Token::Vector(_) => 0,
        };
        let ids: Vec<i32> = texts.iter().flatten().map(id).collect();
        let ids = TensorData::new(ids, [texts.len(), length]);
        let ids = IntTensor::from_data(ids, &self.device);
        let mut x = self.table.forward(ids)?.cast(DType::F32);
        for (text, tokens) in texts.iter().enumerate() {
            for (at, token) in tokens.iter().enumerate() {
                if let Token::Vector(vector) = token {
                    let width = vector.len();
                    let vector = TensorData::new(vector.to_vec(), [1, 1, width]);
                    let vector = Tensor::from_data(vector, (&self.device, DType::F32));
                    x = x.slice_assign([text..text + 1, at..at + 1, 0..width], vector);
                }
            }
        }
        Ok(x)
    }

    /// An error where a text has no tokens or more than are read.
    pub fn check_length(&self, length: usize) -> Result<(), ModelError> {
        match length == 0 || length > self.longest {
            true => Err(self.error("text", format!("1 to {} tokens", self.longest), length)),
            false => Ok(()),
        }
    }

    /// The number of tokens of each text, once all of them are known to fit.
    fn check(&self, texts: &[Vec<Token>]) -> Result<usize, ModelError> {
        let length = texts.first().map_or(0, Vec::len);
        self.check_length(length)?;
        if let Some(other) = texts.iter().find(|text| text.len() != length) {
            let expected = format!("{length} tokens each");
            return Err(self.error("batch of texts", expected, other.len()));
        }
        let rows = self.rows.min(i32::MAX as usize);
        for token in texts.iter().flatten() {
            match token {
                Token::Id(id) if *id as usize >= rows => {
                    return Err(self.error("token", format!("an id below {rows}"), *id));
                }
                Token::Vector(vector) if vector.len() != self.width => {
                    let expected = format!("{} values", self.width);
                    return Err(self.error("token vector", expected, vector.len()));
                }
                _ => {}
            }
        }
        Ok(length)
    }

    fn error(&self, input: &'static str, expected: String, found: impl ToString) -> ModelError {
        ModelError::Input { model: self.model, input, expected, found: found.to_string() }
    }
}
