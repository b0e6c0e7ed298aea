/** A service for run-main.test.ts: what it does stands in its first argument. */
import { createServer } from 'node:http';
import { fault } from '@signalbox/faults/fault';
import { bootLog } from '../src/boot-log.ts';
import { type Lifecycle, runMain } from '../src/lifecycle.ts';

const never = () => new Promise<void>(() => undefined);

const behaviours = {
  async drains(lifecycle) {
    lifecycle.onStop({ name: 'pool', phase: 'pools', run: () => undefined });
  },
  async hangs(lifecycle) {
    lifecycle.onStop({ name: 'turns', phase: 'work', timeoutMs: 60_000, run: never });
  },
  async 'hangs, bounded'(lifecycle) {
    lifecycle.configure({ drainDelayMs: 0, stopTimeoutMs: 300, log: bootLog() });
    lifecycle.onStop({ name: 'turns', phase: 'work', timeoutMs: 60_000, run: never });
    lifecycle.onStop({ name: 'pool', phase: 'pools', run: () => undefined });
  },
  async 'starts for ever'(lifecycle) {
    lifecycle.onStop({ name: 'pool', phase: 'pools', run: () => undefined });
    process.stdout.write('serving\n');
    await never();
  },
  async 'bad configuration'(): Promise<void> {
    throw fault('CONFIG_INVALID', 'gateway: 2 setting(s) are wrong', {
      errors: [
        { path: 'PORT', message: 'must be 0 to 65535' },
        { path: 'DATABASE_URL', message: 'is required' },
      ],
    });
  },
  async 'fails to start'(lifecycle) {
    lifecycle.onStop({ name: 'pool', phase: 'pools', run: () => undefined });
    throw new Error('the port is taken');
  },
  async 'rejects somewhere'(lifecycle) {
    lifecycle.onStop({ name: 'pool', phase: 'pools', run: () => undefined });
    setTimeout(() => void Promise.reject(new Error('nobody caught this')), 20);
  },
  async 'throws somewhere'(lifecycle) {
    lifecycle.onStop({ name: 'pool', phase: 'pools', run: () => undefined });
    setTimeout(() => {
      throw new Error('nobody caught this');
    }, 20);
  },
  async 'writes to a reader that went away'(lifecycle) {
    lifecycle.onStop({ name: 'pool', phase: 'pools', run: () => undefined });
    // As the terminal log of dev/ does: an error event of stdout must not end up in the handler that writes again.
    const write = () => process.stdout.write('more\n', (error) => error && process.stderr.write('unread\n'));
    lifecycle.configure({
      drainDelayMs: 0,
      stopTimeoutMs: 5_000,
      log: { info: write, error: write, critical: write },
    });
    setInterval(write, 5);
  },
  async 'loop ends'(lifecycle) {
    lifecycle.onStop({ name: 'pool', phase: 'pools', run: () => undefined });
    lifecycle.background('consumer', async () => undefined);
  },
  async 'serves while draining'(lifecycle) {
    const server = createServer((_, response) => response.end('served'));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    lifecycle.configure({ drainDelayMs: 1_000, stopTimeoutMs: 10_000, log: bootLog() });
    lifecycle.onStop({
      name: 'server',
      phase: 'health-port',
      run: () => new Promise<void>((resolve) => server.close(() => resolve())),
    });
    const address = server.address();
    process.stdout.write(`port ${typeof address === 'object' ? address?.port : ''}\n`);
  },
} satisfies Record<string, (lifecycle: Lifecycle) => Promise<void>>;

export type Behaviour = keyof typeof behaviours;

await runMain(async (lifecycle) => {
  const chosen = Object.entries(behaviours).find(([name]) => name === process.argv[2]);
  if (chosen === undefined) throw new Error(`no behaviour ${process.argv[2]}`);
  await chosen[1](lifecycle);
  process.stdout.write('serving\n');
});
