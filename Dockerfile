# syntax=docker/dockerfile:1
# heterosis in a container. On the CPU:
#   docker build -t heterosis . && docker run --rm -it heterosis demo --headless
# On an NVIDIA GPU (needs the NVIDIA container toolkit; the same program, beside the libraries of CUDA):
#   docker build -t heterosis:cuda --build-arg RUN=nvidia/cuda:13.0.0-runtime-ubuntu24.04 .
#   docker run --rm -it --gpus all -v "$PWD:/work" heterosis:cuda search space.yaml
ARG BUILD=debian:bookworm
ARG RUN=debian:bookworm-slim

FROM ${BUILD} AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends build-essential ca-certificates curl \
 && rm -rf /var/lib/apt/lists/*
RUN curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal --default-toolchain 1.95.0
ENV PATH=/root/.cargo/bin:$PATH
WORKDIR /source
COPY . .
RUN --mount=type=cache,target=/root/.cargo/registry --mount=type=cache,target=/source/target \
    cargo build --locked --release \
 && strip -o /heterosis target/release/heterosis

FROM ${RUN}
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /heterosis /usr/local/bin/heterosis
# Runs, and what is downloaded, lie where they survive the container: mount a folder there.
WORKDIR /work
ENV XDG_CACHE_HOME=/work/.cache HF_HOME=/work/.cache/huggingface
ENTRYPOINT ["heterosis"]
CMD ["--help"]
