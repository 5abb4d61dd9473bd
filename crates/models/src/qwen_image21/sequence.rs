//! The sequence of tokens: the text, with each reference where the prompt has it, then the picture that is made.

/// The frame, the row and the column of a token. All three of a text's token are the same.
pub(super) type Place = [f64; 3];

/// A run of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Run {
    /// Tokens of the text, of which each sees those before it: the first of the context and behind the last.
    Text(usize, usize),
    /// Those of a picture, which see each other: the number of a reference, or that of all for the picture that is made.
    Picture(usize),
}

/// A sequence.
#[derive(Debug)]
pub(super) struct Sequence {
    /// The runs with their numbers of tokens.
    pub runs: Vec<(Run, usize)>,
    /// Where each token is.
    pub places: Vec<Place>,
}

impl Sequence {
    /// Of so many tokens of text, references of these rows and columns, each before the text's token of that number, or
    /// behind the text where there is no number, and the picture.
    ///
    /// Frames count the text's tokens; a picture has one frame, and the text goes on as far behind it as its longer side.
    /// Rows and columns count from a picture's middle.
    pub fn new(
        words: usize,
        slots: &[usize],
        references: &[[usize; 2]],
        picture: [usize; 2],
    ) -> Self {
        let mut found = Self { runs: Vec::new(), places: Vec::new() };
        let (mut read, mut frame) = (0, 0);
        let sizes = references.iter().copied().chain([picture]);
        for (number, size) in sizes.enumerate() {
            let slot = slots.get(number).filter(|_| number < references.len());
            let end = slot.map_or(words, |slot| (*slot).clamp(read, words));
            if end > read {
                found.runs.push((Run::Text(read, end), end - read));
                found.places.extend((frame..frame + end - read).map(|place| [place as f64; 3]));
                frame += end - read;
                read = end;
            }
            found.push(number, size, frame, picture);
            frame += size[0].max(size[1]);
        }
        found
    }

    fn push(&mut self, number: usize, size: [usize; 2], frame: usize, picture: [usize; 2]) {
        let [rows, columns] = size;
        self.runs.push((Run::Picture(number), rows * columns));
        // Half a token on where one side is odd and the picture's is not, as ComfyUI has it: the middles are one.
        let along = |axis: usize, at: usize| {
            let (length, of_picture) = (size[axis], picture[axis]);
            let half = ((length % 2) as f64 - (of_picture % 2) as f64) / 2.0;
            at as f64 - (length - length / 2) as f64 + half
        };
        self.places.extend((0..rows).flat_map(|row| {
            (0..columns).map(move |column| [frame as f64, along(0, row), along(1, column)])
        }));
    }

    /// Tokens before those of the picture that is made.
    pub fn prefix(&self) -> usize {
        let picture = self.runs.last().map_or(0, |(_, tokens)| *tokens);
        self.places.len() - picture
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After diffusers' `QwenImage21Rope` by hand.
    #[test]
    fn text_counts_on_behind_pictures() {
        let found = Sequence::new(3, &[2], &[[2, 4]], [2, 2]);
        let runs = [
            (Run::Text(0, 2), 2),
            (Run::Picture(0), 8),
            (Run::Text(2, 3), 1),
            (Run::Picture(1), 4),
        ];
        assert_eq!(found.runs, runs);
        assert_eq!(found.prefix(), 11);
        assert_eq!(found.places[..2], [[0.0; 3], [1.0; 3]]);
        assert_eq!([found.places[2], found.places[9]], [[2.0, -1.0, -2.0], [2.0, 0.0, 1.0]]);
        assert_eq!(found.places[10], [6.0; 3]);
        assert_eq!([found.places[11], found.places[14]], [[7.0, -1.0, -1.0], [7.0, 0.0, 0.0]]);
    }

    /// Without numbers, references are behind the text; a middle between tokens meets one of a token.
    #[test]
    fn references_have_their_middle_where_the_picture_has_it() {
        let found = Sequence::new(1, &[], &[[3, 2]], [2, 3]);
        assert_eq!(found.runs[1], (Run::Picture(0), 6));
        assert_eq!([found.places[1], found.places[6]], [[1.0, -1.5, -1.5], [1.0, 0.5, -0.5]]);
        assert_eq!(found.places[7], [4.0, -1.0, -2.0]);
    }
}
