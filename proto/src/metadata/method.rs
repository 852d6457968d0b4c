//! The methods of the metadata service: their names in gRPC and their numbers in frames.

use tonic::codegen::http::uri::PathAndQuery;

macro_rules! methods {
    ($($method:ident = $number:literal),+ $(,)?) => {
        /// A method of the metadata service. Its number is its code in frames and is never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        #[allow(missing_docs)] // documented in metadata.proto
        pub enum Method { $($method = $number),+ }

        impl Method {
            /// Every method, for tables and tests.
            pub const ALL: &'static [Method] = &[$(Method::$method),+];
            /// The inverse of the number.
            pub fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Method::$method),)+ _ => None }
            }
            /// Its path in gRPC.
            pub fn path(self) -> PathAndQuery {
                match self {
                    $(Method::$method => PathAndQuery::from_static(
                        concat!("/dfs.v1.Metadata/", stringify!($method)),
                    ),)+
                }
            }
        }
    };
}

methods! {
    OpenSession = 1,
    KeepAlive = 2,
    CloseSession = 3,
    Mutate = 4,
    Lookup = 5,
    Getattr = 6,
    Readlink = 7,
    Readdir = 8,
    Getxattr = 9,
    Listxattr = 10,
    ReadExtents = 11,
    Open = 12,
    Release = 13,
    Statfs = 14,
    ClusterState = 15,
    Recalls = 16,
    Fsync = 17,
    Usage = 18,
    Lock = 19,
    Unlock = 20,
    CancelLock = 21,
    TestLock = 22,
}
