//! MLLP frames and a read-only view of HL7 v2 headers. All of it pure.
