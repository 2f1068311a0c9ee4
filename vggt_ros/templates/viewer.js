// A cloud to turn and zoom: points as 16-bit coordinates in a box, camera frusta and the path as lines. z is up.
(function () {
  'use strict';
  const canvas = document.getElementById('cloud');
  const gl = canvas && canvas.getContext('webgl', { antialias: true });
  if (!gl) { if (canvas) canvas.parentElement.querySelector('span').textContent = 'no WebGL here'; return; }
  const data = JSON.parse(document.getElementById('cloud-data').textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const buffer = (array) => {
    const b = gl.createBuffer(); gl.bindBuffer(gl.ARRAY_BUFFER, b); gl.bufferData(gl.ARRAY_BUFFER, array, gl.STATIC_DRAW); return b;
  };
  const program = (vertex, fragment) => {
    const p = gl.createProgram();
    [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]].forEach(([kind, text]) => {
      const s = gl.createShader(kind); gl.shaderSource(s, text); gl.compileShader(s); gl.attachShader(p, s);
    });
    gl.bindAttribLocation(p, 0, 'position'); gl.bindAttribLocation(p, 1, 'colour'); gl.linkProgram(p); return p;
  };
  const p = program(
    'attribute vec3 position; attribute vec3 colour; uniform mat4 view; uniform vec3 low, size; uniform float dot;' +
    'varying vec3 tint; void main() { gl_Position = view * vec4(low + size * position, 1.0);' +
    'gl_PointSize = clamp(dot / gl_Position.w, 1.0, 6.0); tint = colour; }',
    'precision mediump float; varying vec3 tint; void main() { gl_FragColor = vec4(tint, 1.0); }');
  const at = (name) => gl.getUniformLocation(p, name);
  const points = { position: buffer(bytes(data.points)), colour: buffer(bytes(data.colours)), count: data.count };
  const lines = { position: buffer(new Float32Array(bytes(data.lines).buffer)), count: data.line_points };
  const cameras = data.camera_points;  // of the lines, so many belong to frusta, the rest to the path

  const eye = { turn: data.turn, lift: 0.6, distance: data.radius * 2.2, target: data.target.slice() };
  const dot3 = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  function axes() {
    const c = Math.cos(eye.lift), s = Math.sin(eye.lift), ct = Math.cos(eye.turn), st = Math.sin(eye.turn);
    return { right: [st, -ct, 0], up: [-ct * s, -st * s, c], back: [ct * c, st * c, s] };
  }
  function viewMatrix(aspect) {  // projection times view, column by column
    const { right, up, back } = axes(), f = 1 / Math.tan(0.4);
    const from = eye.target.map((t, i) => t + back[i] * eye.distance);
    const near = eye.distance / 100, far = eye.distance + data.radius * 8;
    const a = (far + near) / (near - far), b = 2 * far * near / (near - far);
    const r = right.map((v) => v * f / aspect), u = up.map((v) => v * f), z = back.map((v) => v * a);
    const offset = [-dot3(r, from), -dot3(u, from), -dot3(z, from) + b, dot3(back, from)];
    return new Float32Array([
      r[0], u[0], z[0], -back[0], r[1], u[1], z[1], -back[1], r[2], u[2], z[2], -back[2],
      offset[0], offset[1], offset[2], offset[3]]);
  }
  function draw() {
    const scale = window.devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * scale; canvas.height = canvas.clientHeight * scale;
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(0.063, 0.082, 0.106, 1); gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT); gl.enable(gl.DEPTH_TEST);
    gl.useProgram(p);
    gl.uniformMatrix4fv(at('view'), false, viewMatrix(canvas.width / canvas.height));
    gl.uniform1f(at('dot'), canvas.height * 1.2 * data.spacing);
    gl.uniform3fv(at('low'), data.low); gl.uniform3fv(at('size'), data.size);
    gl.enableVertexAttribArray(0); gl.enableVertexAttribArray(1);
    gl.bindBuffer(gl.ARRAY_BUFFER, points.position); gl.vertexAttribPointer(0, 3, gl.UNSIGNED_SHORT, true, 6, 0);
    gl.bindBuffer(gl.ARRAY_BUFFER, points.colour); gl.vertexAttribPointer(1, 3, gl.UNSIGNED_BYTE, true, 3, 0);
    gl.drawArrays(gl.POINTS, 0, points.count);
    gl.uniform3f(at('low'), 0, 0, 0); gl.uniform3f(at('size'), 1, 1, 1);
    gl.disableVertexAttribArray(1);
    gl.bindBuffer(gl.ARRAY_BUFFER, lines.position); gl.vertexAttribPointer(0, 3, gl.FLOAT, false, 12, 0);
    gl.vertexAttrib3f(1, 1.0, 0.62, 0.15); gl.drawArrays(gl.LINES, 0, cameras);
    gl.vertexAttrib3f(1, 0.36, 0.65, 1.0); gl.drawArrays(gl.LINES, cameras, lines.count - cameras);
  }
  let last = null;
  canvas.addEventListener('pointerdown', (e) => { last = [e.clientX, e.clientY]; canvas.setPointerCapture(e.pointerId); });
  canvas.addEventListener('pointerup', () => { last = null; });
  canvas.addEventListener('contextmenu', (e) => e.preventDefault());
  canvas.addEventListener('pointermove', (e) => {
    if (!last) return;
    const dx = e.clientX - last[0], dy = e.clientY - last[1]; last = [e.clientX, e.clientY];
    if (e.shiftKey || e.buttons === 2) {
      const { right, up } = axes(), step = eye.distance / canvas.clientHeight * 0.85;
      eye.target = eye.target.map((t, i) => t + (up[i] * dy - right[i] * dx) * step);
    } else {
      eye.turn -= dx * 0.008; eye.lift = Math.max(-1.55, Math.min(1.55, eye.lift + dy * 0.008));
    }
    draw();
  });
  canvas.addEventListener('wheel', (e) => { e.preventDefault(); eye.distance *= Math.exp(e.deltaY * 0.001); draw(); }, { passive: false });
  window.addEventListener('resize', draw);
  draw();
})();
