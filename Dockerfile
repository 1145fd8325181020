# A static binary and nothing else: TLS roots are compiled in, and the program needs no shell and no writable path.
#
# The Alpine image's own target is musl, which links statically. aws-lc-rs, the TLS provider, compiles C and assembler:
# that takes gcc and musl-dev; its bindings for musl are in the crate, so neither cmake nor bindgen is needed.
FROM rust:1.95-alpine AS build
RUN apk add --no-cache gcc musl-dev
WORKDIR /source
COPY . .
RUN cargo build --release --locked --package cloud-identity-operator --bin cloud-identity-operator

FROM scratch
COPY --from=build /source/target/release/cloud-identity-operator /cloud-identity-operator
# Numeric, so that a Pod with runAsNonRoot can tell that it is not root.
USER 65532:65532
ENTRYPOINT ["/cloud-identity-operator"]
CMD ["run"]
