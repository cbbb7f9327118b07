// A terminal for each WebSocket by node-pty and ws, as their documentation shows it. Arguments: a port, then the shell and
// its own.
import pty from 'node-pty';
import { WebSocketServer } from 'ws';

const [port, shell, ...words] = process.argv.slice(2);
const server = new WebSocketServer({ host: '127.0.0.1', port: Number(port) });

server.on('connection', (socket) => {
  const terminal = pty.spawn(shell, words, { name: 'xterm-256color', cols: 80, rows: 24, cwd: '/', env: process.env });
  terminal.onData((output) => socket.send(output));
  terminal.onExit(() => socket.close());
  socket.on('message', (input) => terminal.write(input.toString()));
  socket.on('close', () => terminal.kill());
});
