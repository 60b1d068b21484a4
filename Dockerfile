# The images, each a program and what it needs to start: no shell, no package manager, nothing to update but the program.
#
#   scripts/images                 builds the programs, lays out target/images/root and makes every image from this file
#   docker build --target plane target/images/root -f Dockerfile       one of them with Docker, after scripts/images --stage
#
# Folders of the context: agent/ controller/ plane/ cli/, each the root of an image.

# Counters of energy are readable by root only (Linux 5.10 and later); the chart takes every capability away from it. Not
# static, because the driver's library of a graphics card is loaded when there is one.
FROM scratch AS agent
COPY agent/ /
ENTRYPOINT ["/bin/evergreen-agent"]

FROM scratch AS controller
COPY controller/ /
USER 65532:65532
ENTRYPOINT ["/bin/evergreen-controller"]

FROM scratch AS plane
COPY plane/ /
USER 65532:65532
ENTRYPOINT ["/bin/evergreen-plane"]

FROM scratch AS cli
COPY cli/ /
USER 65532:65532
ENTRYPOINT ["/bin/evergreen"]
