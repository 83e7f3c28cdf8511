//! The collections. Strings are bytes in the entry itself, see `keyspace::entry`.

pub mod hash;
pub mod intset;
pub mod list;
pub mod listpack;
pub mod members;
pub mod set;
pub mod zset;

pub use hash::Hash;
pub use intset::Intset;
pub use list::List;
pub use listpack::Listpack;
pub use set::Set;
pub use zset::ZSet;

use resp::Args;

use crate::Limits;
use crate::keyspace::table::Ahead;

/// A collection type: what the keyspace must know to make, find and drop one.
pub trait Kind: Sized {
    /// `TYPE`'s answer.
    const TYPE: &'static str;

    fn new(limits: &Limits) -> Self;
    fn is_empty(&self) -> bool;
    /// `OBJECT ENCODING`'s answer.
    fn encoding(&self) -> &'static str;
    fn into_object(self) -> Object;
    fn of(object: &Object) -> Option<&Self>;
    fn of_mut(object: &mut Object) -> Option<&mut Self>;
}

macro_rules! impl_object {
    ($kind:ident) => {
        impl From<$kind> for Object {
            fn from(it: $kind) -> Object {
                Object::$kind(it)
            }
        }
    };
}

macro_rules! objects {
    ($($kind:ident),*) => {
        /// Any collection.
        #[derive(Debug, Clone)]
        pub enum Object {
            $($kind($kind),)*
        }

        impl Object {
            pub fn type_name(&self) -> &'static str {
                match self { $(Object::$kind(_) => <$kind as Kind>::TYPE,)* }
            }

            pub fn encoding(&self) -> &'static str {
                match self { $(Object::$kind(it) => Kind::encoding(it),)* }
            }

            pub fn is_empty(&self) -> bool {
                match self { $(Object::$kind(it) => Kind::is_empty(it),)* }
            }
        }

        $(impl_object!($kind);)*
    };
}

/// The object half of [`Kind`], the same for every type.
#[macro_export]
macro_rules! kind_of_object {
    ($kind:ident) => {
        fn into_object(self) -> $crate::types::Object {
            $crate::types::Object::$kind(self)
        }

        fn of(object: &$crate::types::Object) -> Option<&Self> {
            match object {
                $crate::types::Object::$kind(it) => Some(it),
                _ => None,
            }
        }

        fn of_mut(object: &mut $crate::types::Object) -> Option<&mut Self> {
            match object {
                $crate::types::Object::$kind(it) => Some(it),
                _ => None,
            }
        }
    };
}

objects!(List, Set, ZSet, Hash);

impl Object {
    /// Bytes of the table that members lie in, without the members; 0 for what is packed, and for a sorted set.
    pub fn table_bytes(&self) -> usize {
        match self {
            Object::Hash(Hash::Table(table)) | Object::Set(Set::Table(table)) => table.table_bytes(),
            Object::Hash(Hash::Packed(_)) | Object::Set(_) | Object::List(_) | Object::ZSet(_) => 0,
        }
    }

    /// Looks ahead to what a command about a member reads: asks for what it reads first, and says what comes next. Which
    /// argument is the member is a guess that holds for the common commands.
    #[inline]
    pub(crate) fn look_ahead(&self, args: Args<'_>) -> Option<MemberAhead<'_>> {
        match self {
            Object::Hash(Hash::Table(table)) | Object::Set(Set::Table(table)) => {
                table.ahead(args.get(2)?).map(MemberAhead::InTable)
            }
            Object::Hash(Hash::Packed(list)) | Object::Set(Set::Packed(list)) => {
                list.prefetch();
                None
            }
            // ZADD key score member, ZSCORE key member.
            Object::ZSet(ZSet::Full(full)) => {
                let member = args.get(args.len().checked_sub(1)?)?;
                Some(MemberAhead::InScores(full, members::hash(member)))
            }
            Object::List(_) | Object::ZSet(_) | Object::Set(Set::Ints(_)) => None,
        }
    }
}

/// A member that is about to be looked for.
pub(crate) enum MemberAhead<'o> {
    InTable(Ahead<'o>),
    InScores(&'o zset::full::Full, u64),
}

impl MemberAhead<'_> {
    #[inline]
    pub(crate) fn prefetch(self) {
        match self {
            Self::InTable(ahead) => _ = ahead.entry(),
            Self::InScores(full, hash) => full.prefetch(hash),
        }
    }
}
