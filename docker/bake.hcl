# All images at once, or one: docker buildx bake -f docker/bake.hcl [humble|jazzy|lyrical|rolling]
group "default" {
  targets = ["humble", "jazzy", "lyrical", "rolling"]
}

target "image" {
  name       = distro
  matrix     = { distro = ["humble", "jazzy", "lyrical", "rolling"] }
  context    = "."
  dockerfile = "docker/Dockerfile"
  args       = { DISTRO = distro }
  tags       = ["vggt_ros:${distro}"]
}
