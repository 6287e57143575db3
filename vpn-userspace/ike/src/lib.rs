//! IKEv2, sans-IO: datagrams, commands and time in; datagrams, events and deadlines out.
