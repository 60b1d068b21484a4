//! A regular file that grows: its lines from a place on, through being cut, replaced, or not there for a while.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::Path,
};

use super::line::MAX_LINE;

/// A followed file.
#[derive(Debug)]
pub(super) struct Tail {
    file: File,
    inode: u64,
    offset: u64,
    line_start: u64,
    lines: Lines,
}

/// Puts lines together from pieces; of a line that is too long the beginning is kept.
#[derive(Debug)]
pub(super) struct Lines {
    partial: Vec<u8>,
    longest: usize,
}

impl Default for Lines {
    fn default() -> Self {
        Self::of_at_most(MAX_LINE)
    }
}

impl Lines {
    /// Of lines with so many bytes at most.
    pub(super) fn of_at_most(longest: usize) -> Self {
        Self { partial: Vec::new(), longest }
    }

    /// Takes a piece and hands the lines over that it completes; gives the number of bytes behind the last of them.
    pub(super) fn push(&mut self, bytes: &[u8], mut take: impl FnMut(&[u8])) -> usize {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            if self.partial.is_empty() {
                take(&rest[..end.min(self.longest)]);
            } else {
                self.append(&rest[..end]);
                take(&self.partial);
                self.partial.clear();
            }
            rest = &rest[end + 1..];
        }
        self.append(rest);
        rest.len()
    }

    fn append(&mut self, bytes: &[u8]) {
        let room = self.longest.saturating_sub(self.partial.len());
        self.partial.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// What a step of reading found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Bytes were read.
    Read,
    /// There is nothing new.
    End,
    /// The file was cut, or another one is in its place.
    Replaced,
}

impl Tail {
    /// Opens a file at a kept place (inode and offset) or, without one, at most `backlog` bytes before its end.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(super) fn open(path: &Path, kept: Option<(u64, u64)>, backlog: u64) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        let (inode, length) = (metadata.ino(), metadata.len());
        let offset = match kept {
            Some((kept, offset)) if kept == inode && offset <= length => offset,
            // Another file than before: all of it is news.
            Some(_) => 0,
            None => length.saturating_sub(backlog),
        };
        file.seek(SeekFrom::Start(offset))?;
        Ok(Self { file, inode, offset, line_start: offset, lines: Lines::default() })
    }

    /// Inode and the offset behind the last complete line; one that is not complete is read again after a restart.
    pub(super) fn place(&self) -> (u64, u64) {
        (self.inode, self.line_start)
    }

    /// Reads once and hands complete lines over.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn read(&mut self, path: &Path, buffer: &mut [u8], take: impl FnMut(&[u8])) -> io::Result<Step> {
        let read = match self.file.read(buffer) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Step::Read),
            Err(error) => return Err(error),
        };
        if read > 0 {
            self.offset += read as u64;
            let behind = self.lines.push(&buffer[..read], take);
            if behind < read {
                self.line_start = self.offset - behind as u64;
            }
            return Ok(Step::Read);
        }
        match std::fs::metadata(path) {
            Ok(now) if now.ino() != self.inode || now.len() < self.offset => Ok(Step::Replaced),
            Ok(_) => Ok(Step::End),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Step::End),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together_from_any_pieces_and_bounded() {
        let mut lines = Lines::of_at_most(4);
        let mut seen = Vec::new();
        for piece in ["ab", "c\nde", "f\n", "\n123456789", "0\nx"] {
            lines.push(piece.as_bytes(), |line| seen.push(String::from_utf8_lossy(line).into_owned()));
        }
        assert_eq!(seen, ["abc", "def", "", "1234"]);
    }
}
