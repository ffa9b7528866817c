use super::*;

fn parse(text: &str) -> Result<Option<Net>, String> {
    Net::parse(text.as_ref())
}

#[test]
fn keys_are_parsed_and_printed_alike() {
    let text = "tap=vm0,mac=02:00:5e:00:00:ff,mtu=9000,offload=off";
    let net = parse(text).unwrap().unwrap();
    assert_eq!(
        (net.tap.as_deref(), net.mtu, net.offload_off),
        (Some("vm0"), Some(9000), true)
    );
    assert_eq!(net.mac, Some([2, 0, 0x5e, 0, 0, 0xff]));
    assert_eq!(keys::text(&KEYS, &net), format!(",{text}").as_str());
    let text = "passt,forward=2222:22+127.0.0.1/80:8080+udp:[::1]/53:53,rx-rate=10M,tx-packets=5";
    let net = parse(text).unwrap().unwrap();
    assert!(net.starts_passt());
    assert_eq!(keys::text(&KEYS, &net), format!(",{text}").as_str());
    let net = parse("passt=/run/p,,1").unwrap().unwrap();
    assert_eq!(net.passt.as_deref(), Some(Path::new("/run/p,1")));
    assert!(!net.starts_passt());
    assert_eq!(parse("fd=7").unwrap().unwrap().fd, Some(7));
    assert_eq!(parse("none"), Ok(None));
}

#[test]
fn each_wrong_value_is_named_with_what_is_right() {
    for (text, parts) in [
        ("", ["unknown key", "tap=NAME"]),
        ("mtu=1500", ["no interface is given", "tap=NAME, fd=N"]),
        ("tap=a,fd=3", ["exclude each other", "expected one"]),
        ("tap=", ["\"\"", "1 to 15 bytes"]),
        (
            "tap=sixteen-bytes-xx",
            ["sixteen-bytes-xx", "1 to 15 bytes"],
        ),
        ("tap=a/b", ["a/b", "slash"]),
        ("fd=1", ["fd=1", "from 3 on"]),
        ("fd=x", ["fd cannot be \"x\"", "fd=N"]),
        (
            "tap=a,mac=03:00:00:00:00:01",
            ["03:00:00:00:00:01", "multicast"],
        ),
        (
            "tap=a,mac=00:00:00:00:00:00",
            ["00:00:00:00:00:00", "no address"],
        ),
        ("tap=a,mac=2:0:0:0:0:1", ["mac cannot be", "XX:XX"]),
        ("tap=a,mac=02:00:00:00:00:00:01", ["mac cannot be", "XX:XX"]),
        ("tap=a,mtu=67", ["\"67\"", "68 to 65535"]),
        ("tap=a,mtu=65536", ["\"65536\"", "68 to 65535"]),
        ("tap=a,offload", ["offload", "on|off"]),
        ("tap=a,tap=b", ["tap is given twice", ""]),
        ("passt,tap=a", ["exclude each other", "expected one"]),
        ("passt=", ["passt=", "passt[=SOCKET]"]),
        ("tap=a,forward=1:1", ["forward= needs passt", "of its own"]),
        (
            "passt=/s,forward=1:1",
            ["forward= needs passt", "of its own"],
        ),
        ("passt,forward=22", ["\"22\"", "2222:22"]),
        ("passt,forward=0:22", ["\"0:22\"", "2222:22"]),
        ("passt,forward=1:65536", ["65536", "2222:22"]),
        ("passt,forward=host/1:1", ["host/1:1", "127.0.0.1/"]),
        ("passt,forward=sctp:1:1", ["sctp", "udp:"]),
        ("tap=a,rx-rate=0", ["\"0\"", "10M"]),
        ("tap=a,tx-rate=fast", ["fast", "bytes per second"]),
        ("tap=a,tx-packets=-1", ["-1", "packets per second"]),
        ("tap=a,speed=1", ["speed=1", "known are"]),
    ] {
        let problem = parse(text).unwrap_err();
        for part in parts {
            assert!(problem.contains(part), "{text}: {problem}");
        }
    }
}
