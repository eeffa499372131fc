//! What can be wrong with bytes that should be Ice.

/// Bytes that are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They end too early.
    #[error("{wanted} bytes are wanted and {left} are left")]
    Truncated {
        /// How many are wanted.
        wanted: usize,
        /// How many are left.
        left: usize,
    },
    /// There are more than there should be.
    #[error("{0} bytes are left over")]
    LeftOver(usize),
    /// A size is below zero.
    #[error("a size is {0}")]
    NegativeSize(i32),
    /// So many elements cannot be in the bytes that are left.
    #[error("{count} elements do not fit into {left} bytes")]
    Count {
        /// How many are claimed.
        count: usize,
        /// How many bytes are left.
        left: usize,
    },
    /// Text is not UTF-8.
    #[error("text is not UTF-8")]
    Text,
    /// A truth value is neither 0 nor 1.
    #[error("a truth value is {0}")]
    Bool(u8),
    /// A value of an enumeration is none of its own.
    #[error("{value} is no value of {name}")]
    Enumerator {
        /// The enumeration.
        name: &'static str,
        /// The value.
        value: i32,
    },
    /// An encapsulation claims a size that it cannot have.
    #[error("an encapsulation claims {0} bytes")]
    Encapsulation(i32),
    /// An encoding is neither 1.0 nor 1.1.
    #[error("encoding {0}.{1} is not supported")]
    Encoding(u8, u8),
    /// A facet is a sequence of more than one.
    #[error("a facet has {0} parts")]
    Facet(usize),
    /// An identity has a category and no name.
    #[error("an identity has a category and no name")]
    Identity,
    /// Values are nested too deeply.
    #[error("values are nested too deeply")]
    Depth,
    /// An optional value is marked as what it is not.
    #[error("the optional value of tag {tag} is of format {format}")]
    OptionalFormat {
        /// Its tag.
        tag: i32,
        /// How it is marked.
        format: u8,
    },
    /// An instance is referred to that there is not.
    #[error("there is no instance {0}")]
    Instance(i64),
    /// An instance is there twice.
    #[error("instance {0} is there twice")]
    Twice(i32),
    /// An instance is of a class that is not known, and of no class above it that is.
    #[error("class {0:?} is not known")]
    Class(String),
    /// An instance is not of the class that is wanted.
    #[error("an instance is a {found}, not a {wanted}")]
    NotA {
        /// What it is.
        found: String,
        /// What is wanted.
        wanted: &'static str,
    },
    /// A slice of a class or of an exception is not as it should be.
    #[error("a slice is wrong: {0}")]
    Slice(&'static str),
    /// A message does not begin with the magic number.
    #[error("this is not Ice: the message begins with {0:02x?}")]
    Magic([u8; 4]),
    /// A message is of another protocol.
    #[error("protocol {0}.{1} is not supported")]
    Protocol(u8, u8),
    /// A message is of no known type.
    #[error("there is no message of type {0}")]
    MessageType(u8),
    /// The compression status of a message is none.
    #[error("there is no compression status {0}")]
    Compression(u8),
    /// A message claims a size that it cannot have.
    #[error("a message claims {0} bytes")]
    MessageSize(i32),
    /// A message is larger than is accepted.
    #[error("a message of {size} bytes is larger than {max}")]
    TooLarge {
        /// Its size.
        size: usize,
        /// What is accepted.
        max: usize,
    },
    /// The status of a reply is none.
    #[error("there is no reply status {0}")]
    Status(u8),
}
