//! What BIRD is told, and what it said when it was asked.

use super::*;
use crate::frr::tests::speaker;

#[test]
fn the_file() {
    insta::assert_snapshot!("bird", config(&speaker()));
}

const PROTOCOLS_SAID: &str = "\
2002-Name       Proto      Table      State  Since         Info
1002-cv_169_254_10_2 BGP        ---        up     21:46:09.242  Established   
1006-  Description:    site/a
   BGP state:          Established
     Neighbor address: 169.254.10.2%v1
     Neighbor AS:      65002
   Channel ipv4
     State:          UP
     Routes:         1 imported, 2 filtered, 3 exported, 1 preferred
 
1002-cv_fd99__2 BGP        ---        down   21:46:09.242  
1006-  BGP state:          Down
     Neighbor address: fd99::2%v1
 
1002-cv_169_254_10_6 BGP        ---        start  21:46:09.242  Active        Socket: Connection refused
1006-  BGP state:          Active
     Neighbor address: 169.254.10.6%v2
     Last error:       Socket: Connection refused
 
0000 
";
const BFD_SAID: &str = "1020-bfd1:\n IP address                Interface  State      Since         Interval  Timeout\n \
    169.254.10.2              v1         Up         21:46:08.310    0.300    0.900\n0000 \n";
const ROUTES_SAID: &str = "\
1007-Table master4:
 10.1.0.0/24          blackhole [own4 21:46:08.306] * (200)
1008-	Type: static univ
1007-10.2.0.0/24          unicast [cv_169_254_10_2 21:46:10.220] * (100) [AS65002i]
 	via 169.254.10.2 on v1
1008-	Type: BGP univ
1012-	BGP.origin: IGP
 	BGP.as_path: 65002 65003
 	BGP.next_hop: 169.254.10.2
 	BGP.med: 7
 	BGP.local_pref: 200
1007-                     unicast [cv_169_254_10_6 21:46:10.220] (100) [AS65002i]
 	via 169.254.10.6 on v2
0000 
";

#[test]
fn what_it_says_is_understood() {
    let report = report(PROTOCOLS_SAID, BFD_SAID, ROUTES_SAID).unwrap();
    insta::assert_debug_snapshot!("bird-report", report);
    let refused = lines("0002-Reading configuration from x\n8002 x:3:1 syntax error\n").unwrap_err();
    assert_eq!(refused.to_string(), "BIRD refuses: x:3:1 syntax error");
    assert!(is_whole(ROUTES_SAID) && is_whole("0001 BIRD 2.0.12 ready.\n"));
    assert!(!is_whole("1007-Table master4:\n") && !is_whole("0000") && !is_whole(""));
}

#[test]
fn nothing_that_it_might_say_is_fatal() {
    for cut in 0..ROUTES_SAID.len() {
        let _ = report(&PROTOCOLS_SAID[..cut.min(PROTOCOLS_SAID.len())], "", &ROUTES_SAID[..cut]);
    }
}
