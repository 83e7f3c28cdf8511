//! Which lists are listpacks and which quicklists under the `list-max-listpack-size` of the moment, as Redis 7.2 has it. (Its
//! version 7.0, the redis-server of these tests, has quicklists only.)

use harness::{Server, transcript};

const LISTS: &str = r#"
> CONFIG SET list-max-listpack-size 3
OK
> RPUSH l a b c
(integer) 3
> OBJECT ENCODING l
"listpack"
> RPUSH l d
(integer) 4
> OBJECT ENCODING l
"quicklist"

# All values of a command are looked at before the first is pushed.
> RPUSH m a b c d
(integer) 4
> OBJECT ENCODING m
"quicklist"
> LPUSH n 1 2 3 4
(integer) 4
> OBJECT ENCODING n
"quicklist"

# A quicklist of one node at half of the limit is a listpack again.
> RPOP l
"d"
> OBJECT ENCODING l
"quicklist"
> LREM l 1 a
(integer) 1
> OBJECT ENCODING l
"quicklist"
> LTRIM l 0 0
OK
> OBJECT ENCODING l
"listpack"
> LMPOP 1 m RIGHT COUNT 3
1) "m"
2) 1) "d"
   2) "c"
   3) "b"
> OBJECT ENCODING m
"listpack"
> LPOP n 3
1) "4"
2) "3"
3) "2"
> OBJECT ENCODING n
"listpack"

# LSET and LINSERT count a value more than there is, whether they add one or not.
> RPUSH s a b c
(integer) 3
> COPY s t
(integer) 1
> OBJECT ENCODING t
"listpack"
> LSET s 0 x
OK
> OBJECT ENCODING s
"quicklist"
> LINSERT t BEFORE nosuch x
(integer) -1
> OBJECT ENCODING t
"quicklist"
> LSET s 5 x
(error) ERR index out of range

# Sizes in bytes: a value too large makes a quicklist, and a smaller one in its place a listpack.
> CONFIG SET list-max-listpack-size -1
OK
> RPUSH big a
(integer) 1
> OBJECT ENCODING big
"listpack"
> SETRANGE long-a 4999 x
(integer) 5000
> SORT big BY nosort GET long-* STORE large
(integer) 1
> OBJECT ENCODING large
"quicklist"
> LSET large 0 small
OK
> OBJECT ENCODING large
"listpack"
> LMOVE big large LEFT RIGHT
"a"
> OBJECT ENCODING large
"listpack"

# A changed limit counts at the next change.
> CONFIG SET list-max-listpack-size 1
OK
> OBJECT ENCODING large
"listpack"
> RPUSH large b
(integer) 3
> OBJECT ENCODING large
"quicklist"
> CONFIG SET list-max-listpack-size -2
OK
> OBJECT ENCODING large
"quicklist"
> LPUSHX large c
(integer) 4
> LPUSHX large d
(integer) 5
> OBJECT ENCODING large
"quicklist"

# What is loaded is what it would be if it were made.
> CONFIG SET list-max-listpack-size 2
OK
> DEL l
(integer) 1
> RPUSH l a b c
(integer) 3
> OBJECT ENCODING l
"quicklist"
> CONFIG SET list-max-listpack-size 3
OK
> DEBUG RELOAD
OK
> RPUSH two a b c
(integer) 3
> DEBUG RELOAD
OK
> OBJECT ENCODING two
"listpack"
> LPUSH two 1
(integer) 4
> DEBUG RELOAD
OK
> OBJECT ENCODING two
"quicklist"
> LRANGE two 0 -1
1) "1"
2) "a"
3) "b"
4) "c"
"#;

#[test]
fn a_list_is_what_redis_7_2_says_it_is() {
    for threads in ["1", "2"] {
        let server = Server::ours(&["--io-threads", threads]);
        let mut conn = server.conn();
        let wrong = transcript::play(&mut conn, LISTS);
        assert!(wrong.is_empty(), "{wrong}");
        let object = conn.text("DEBUG OBJECT two");
        assert!(object.contains(" ql_nodes:2 ql_avg_node:2.00 ql_listpack_max:3 ql_compressed:0 "), "{object}");
    }
}

#[test]
fn a_listpack_is_dumped_as_one_node() {
    let server = Server::ours(&[]);
    let mut conn = server.conn();
    // The last one goes to the small node in front.
    let long = "x".repeat(600);
    conn.call(&["RPUSH", "l", &long, &long]);
    conn.cmd("LPUSH l first");
    let same = Server::ours(&[]);
    let mut other = same.conn();
    other.call(&["RPUSH", "l", "first", &long, &long]);
    assert_eq!(conn.cmd("DUMP l"), other.cmd("DUMP l"));
}
