//! Settings that commands and types ask for, with Redis's names and defaults (redis.conf of 7.2).

#[derive(Debug, Clone)]
pub struct Limits {
    pub hash_max_listpack_entries: usize,
    /// Bytes of one field or value.
    pub hash_max_listpack_value: usize,
    pub set_max_intset_entries: usize,
    pub set_max_listpack_entries: usize,
    pub set_max_listpack_value: usize,
    pub zset_max_listpack_entries: usize,
    pub zset_max_listpack_value: usize,
    /// Positive: elements a node; -1 … -5: 4, 8, 16, 32, 64 KiB a node.
    pub list_max_listpack_size: i64,
    /// Longest string value, bytes.
    pub proto_max_bulk_len: usize,
    /// A client with more bytes of replies than this loses its connection: nobody will read more.
    pub reply_max: usize,
    /// A lazily expired key is propagated as UNLINK rather than DEL.
    pub lazyfree_lazy_expire: bool,
    /// So is a key that a command deletes as a side effect.
    pub lazyfree_lazy_server_del: bool,
    /// RESTORE refuses a payload whose checksum is wrong.
    pub verify_dump_checksum: bool,
}

impl Limits {
    /// The command by which the deletion of an expired key is propagated.
    pub fn expire_del(&self) -> &'static [u8] {
        del(self.lazyfree_lazy_expire)
    }

    /// The command by which a deletion that is a side effect is propagated.
    pub fn server_del(&self) -> &'static [u8] {
        del(self.lazyfree_lazy_server_del)
    }
}

fn del(lazy: bool) -> &'static [u8] {
    if lazy { b"UNLINK" } else { b"DEL" }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            hash_max_listpack_entries: 512,
            hash_max_listpack_value: 64,
            set_max_intset_entries: 512,
            set_max_listpack_entries: 128,
            set_max_listpack_value: 64,
            zset_max_listpack_entries: 128,
            zset_max_listpack_value: 64,
            list_max_listpack_size: -2,
            proto_max_bulk_len: 512 << 20,
            reply_max: usize::MAX,
            lazyfree_lazy_expire: false,
            lazyfree_lazy_server_del: false,
            verify_dump_checksum: true,
        }
    }
}
