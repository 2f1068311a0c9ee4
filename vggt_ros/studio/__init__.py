"""The web page: drop images, a video or a bag, look at the 3D. The only folder that knows the web; needs the extra."""
