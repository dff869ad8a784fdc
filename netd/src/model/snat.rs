//! The addresses that a network's containers leave as, where they are not those of the uplinks.

use std::net::IpAddr;

use super::{Rejection, Subnet};
use crate::reconcile::Family;

const WANTED: &str = "an address to leave as: one of a host, and of a family that the network has";

/// Reads what was given: at most one address of each family that the network has.
pub fn sources(given: &[String], subnets: &[Subnet]) -> Result<Vec<IpAddr>, Rejection> {
    let mut sources: Vec<IpAddr> = Vec::new();
    for text in given {
        let malformed = || Rejection::Malformed { given: text.clone(), wanted: WANTED };
        let address: IpAddr = text.parse().map_err(|_| malformed())?;
        let family = Family::of(address);
        let of_one_host = !address.is_unspecified() && !address.is_loopback() && !address.is_multicast();
        if !of_one_host || subnets.iter().all(|subnet| subnet.family() != family) {
            return Err(malformed());
        }
        if let Some(first) = sources.iter().find(|source| Family::of(**source) == family) {
            return Err(Rejection::TwoSources { first: *first, second: address });
        }
        sources.push(address);
    }
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::two_networks_and_an_endpoint;

    fn read(given: &[&str]) -> Result<Vec<IpAddr>, String> {
        let model = two_networks_and_an_endpoint();
        let subnets = &model.networks.values().next().unwrap().subnets;
        let given: Vec<_> = given.iter().map(|text| (*text).to_owned()).collect();
        sources(&given, subnets).map_err(|rejection| rejection.to_string())
    }

    #[test]
    fn one_address_of_each_family_of_the_network_is_taken_and_nothing_else() {
        assert_eq!(read(&[]), Ok(Vec::new()));
        assert_eq!(read(&["192.0.2.7"]), Ok(vec!["192.0.2.7".parse().unwrap()]));
        for wrong in ["eth0", "0.0.0.0", "127.0.0.1", "224.0.0.1", "2001:db8::7"] {
            assert_eq!(read(&[wrong]), Err(format!("`{wrong}` is not {WANTED}")));
        }
        let two = read(&["192.0.2.7", "192.0.2.8"]);
        assert_eq!(two, Err("192.0.2.7 and 192.0.2.8 are two addresses of one family to leave as".to_owned()));
    }
}
