//! Typed bodies of messages and calls.

use anyhop_base::PeerId;
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::{Encoding, Message};

/// A value that can be the body of a message: [`Json`], [`Protobuf`], or one's own.
pub trait Body: Sized {
    /// How it is told in the message.
    const ENCODING: Encoding;

    /// Its bytes.
    ///
    /// # Errors
    /// When it cannot be written.
    fn to_body(&self) -> Result<Bytes, BodyError>;

    /// Reads it, of a message that says so.
    ///
    /// # Errors
    /// When the bytes are none.
    fn from_body(body: &Bytes) -> Result<Self, BodyError>;
}

/// A value in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Json<T>(pub T);

impl<T: Serialize + DeserializeOwned> Body for Json<T> {
    const ENCODING: Encoding = Encoding::Json;

    fn to_body(&self) -> Result<Bytes, BodyError> {
        let body = serde_json::to_vec(&self.0);
        body.map(Bytes::from)
            .map_err(|e| BodyError::Unwritable(e.to_string()))
    }

    fn from_body(body: &Bytes) -> Result<Self, BodyError> {
        let value = serde_json::from_slice(body);
        value.map(Self).map_err(|e| BodyError::Unreadable {
            encoding: Self::ENCODING,
            reason: e.to_string(),
        })
    }
}

/// A protobuf message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protobuf<T>(pub T);

impl<T: prost::Message + Default> Body for Protobuf<T> {
    const ENCODING: Encoding = Encoding::Protobuf;

    fn to_body(&self) -> Result<Bytes, BodyError> {
        Ok(self.0.encode_to_vec().into())
    }

    fn from_body(body: &Bytes) -> Result<Self, BodyError> {
        let value = T::decode(body.clone());
        value.map(Self).map_err(|e| BodyError::Unreadable {
            encoding: Self::ENCODING,
            reason: e.to_string(),
        })
    }
}

/// Why a body cannot be written, or read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BodyError {
    /// It says that it is something else.
    #[error("its encoding is {got:?}, and {wanted:?} is wanted")]
    OtherEncoding {
        /// What is wanted.
        wanted: Encoding,
        /// What it says.
        got: Encoding,
    },
    /// The bytes are not what they should be.
    #[error("it is not the {encoding:?} that is wanted: {reason}")]
    Unreadable {
        /// What they say they are.
        encoding: Encoding,
        /// Why they are not.
        reason: String,
    },
    /// The value has no such form.
    #[error("the value cannot be written: {0}")]
    Unwritable(String),
}

/// Reads a body that says how it is to be read.
fn read<B: Body>(encoding: Encoding, body: &Bytes) -> Result<B, BodyError> {
    if encoding != B::ENCODING {
        return Err(BodyError::OtherEncoding {
            wanted: B::ENCODING,
            got: encoding,
        });
    }
    B::from_body(body)
}

impl Message {
    /// A value of type `kind`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn of<B: Body>(kind: impl Into<String>, value: &B) -> Result<Self, BodyError> {
        Ok(Self {
            kind: kind.into(),
            encoding: B::ENCODING,
            body: value.to_body()?,
        })
    }

    /// The value that it is.
    ///
    /// # Errors
    /// When it is another one.
    pub fn read<B: Body>(&self) -> Result<B, BodyError> {
        read(self.encoding, &self.body)
    }
}

/// One value of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// How to read [`body`](Self::body).
    pub encoding: Encoding,
    /// The value.
    pub body: Bytes,
}

impl Item {
    /// A UTF-8 text.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            encoding: Encoding::Utf8,
            body: Bytes::from(text.into()),
        }
    }

    /// Bytes.
    #[must_use]
    pub fn binary(body: impl Into<Bytes>) -> Self {
        Self {
            encoding: Encoding::Binary,
            body: body.into(),
        }
    }

    /// A value.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn of<B: Body>(value: &B) -> Result<Self, BodyError> {
        Ok(Self {
            encoding: B::ENCODING,
            body: value.to_body()?,
        })
    }

    /// The value that it is.
    ///
    /// # Errors
    /// When it is another one.
    pub fn read<B: Body>(&self) -> Result<B, BodyError> {
        read(self.encoding, &self.body)
    }
}

impl BodyError {
    /// As the error of a message to or from a peer.
    pub(crate) fn of(self, peer: PeerId) -> crate::MessageError {
        crate::MessageError::Body { peer, source: self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_says_how_it_is_to_be_read_and_nothing_else_is_read_as_it() {
        let message = Message::of("t", &Json(vec![1, 2])).unwrap();
        assert_eq!(
            (message.encoding, &*message.body),
            (Encoding::Json, &b"[1,2]"[..])
        );
        assert_eq!(message.read(), Ok(Json(vec![1, 2])));
        let other = message.read::<Json<String>>();
        assert!(matches!(other, Err(BodyError::Unreadable { .. })));
        let other = message.read::<Protobuf<String>>();
        assert!(matches!(other, Err(BodyError::OtherEncoding { .. })));
        let item = Item::of(&Protobuf("x".to_owned())).unwrap();
        assert_eq!(&*item.body, [0x0a, 1, b'x']);
        assert_eq!(item.read(), Ok(Protobuf("x".to_owned())));
        let keys = std::collections::HashMap::from([((1, 2), 3)]);
        assert!(matches!(
            Message::of("t", &Json(Keys(keys))),
            Err(BodyError::Unwritable(_))
        ));
    }

    /// No JSON: its keys are no strings.
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Keys(std::collections::HashMap<(u8, u8), u8>);
}
