//! Parts of an input that remember where they stand in it, so that errors can point.

/// A part of a larger text and the byte at which it starts there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span<'a> {
    pub text: &'a str,
    pub start: usize,
}

impl<'a> Span<'a> {
    /// All of `text`.
    pub fn whole(text: &'a str) -> Self {
        Span { text, start: 0 }
    }

    /// Without the blanks around it.
    pub fn trim(self) -> Self {
        let text = self.text.trim_start();
        let start = self.start + (self.text.len() - text.len());
        Span { text: text.trim_end(), start }
    }

    /// The parts between `separator`s, blanks around them removed.
    pub fn split(self, separator: char) -> impl Iterator<Item = Span<'a>> {
        let mut start = self.start;
        self.text.split(separator).map(move |text| {
            let part = Span { text, start };
            start += text.len() + separator.len_utf8();
            part.trim()
        })
    }

    /// The first `wanted` character and all that follows it.
    pub fn find(self, wanted: char) -> Option<Span<'a>> {
        let at = self.text.find(wanted)?;
        Some(Span { text: self.text.get(at..)?, start: self.start + at })
    }

    /// The parts before and after the first `separator`, blanks around them removed.
    pub fn split_once(self, separator: char) -> Option<(Span<'a>, Span<'a>)> {
        let at = self.text.find(separator)?;
        let (before, after) = self.split_at(at);
        let after = Span {
            text: after.text.get(separator.len_utf8()..).unwrap_or(""),
            start: after.start + separator.len_utf8(),
        };
        Some((before, after.trim()))
    }

    /// The leading part whose characters all satisfy `belongs`, and the rest, both trimmed.
    pub fn take_while(self, belongs: impl Fn(char) -> bool) -> (Span<'a>, Span<'a>) {
        let at = self.text.find(|c| !belongs(c)).unwrap_or(self.text.len());
        self.split_at(at)
    }

    fn split_at(self, at: usize) -> (Span<'a>, Span<'a>) {
        let (before, after) = self.text.split_at(at);
        let rest = Span { text: after, start: self.start + at };
        (Span { text: before, start: self.start }.trim(), rest.trim_start())
    }

    fn trim_start(self) -> Self {
        let text = self.text.trim_start();
        Span { text, start: self.start + (self.text.len() - text.len()) }
    }

    /// Where this part stands in `input`, counted in characters from 1, as people count.
    pub fn character_in(self, input: &str) -> usize {
        input.char_indices().take_while(|&(byte, _)| byte < self.start).count() + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_know_where_they_stand() {
        let input = "é ; cuda:1 , 5 gb;x";
        let parts: Vec<Span> = Span::whole(input).split(';').collect();
        assert_eq!(parts[1].text, "cuda:1 , 5 gb");
        assert_eq!(&input[parts[1].start..][..6], "cuda:1");
        assert_eq!(parts[1].character_in(input), 5);
        let (device, amount) = parts[1].split_once(',').unwrap();
        assert_eq!((device.text, amount.text), ("cuda:1", "5 gb"));
        assert_eq!(&input[amount.start..][..4], "5 gb");
        let (number, unit) = amount.take_while(|c| c.is_ascii_digit());
        assert_eq!((number.text, unit.text), ("5", "gb"));
        assert_eq!(&input[unit.start..][..2], "gb");
    }
}
