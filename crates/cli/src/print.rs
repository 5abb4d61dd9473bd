//! Lines for people. Where nobody reads any more, as behind `head`, they are lost, and work goes on.

/// Prints a line on standard error, colours only on a terminal.
macro_rules! tell {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        // Who closed the pipe wants no more.
        let _ = writeln!(anstream::stderr(), $($text)*);
    }};
}

/// Prints a line on standard output, colours only on a terminal.
macro_rules! show {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        // As above.
        let _ = writeln!(anstream::stdout(), $($text)*);
    }};
}
