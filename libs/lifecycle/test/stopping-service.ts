/** A service for run-main.test.ts: what it does stands in its first argument. */
import { createServer } from 'node:http';
import { fault } from '@signalbox/faults/fault';
import { bootLog } from '../src/boot-log.ts';
import { type Lifecycle, runMain } from '../src/lifecycle.ts';

const never = () => new Promise<void>(() => undefined);

const behaviours: Record<string, (lifecycle: Lifecycle) => Promise<void>> = {
  async drains(lifecycle) {
    lifecycle.onStop({ name: 'pool', phase: 'pools', run: () => undefined });
  },
  async hangs(lifecycle) {
    lifecycle.onStop({ name: 'turns', phase: 'work', timeoutMs: 60_000, run: never });
  },
  async 'hangs, bounded'(lifecycle) {
    lifecycle.configure({ drainDelayMs: 0, stopTimeoutMs: 300, log: bootLog(), onStopped: never });
  },
  async 'starts for ever'(lifecycle) {
    lifecycle.onStop({ name: 'pool', phase: 'pools', run: () => undefined });
    console.log('serving');
    await never();
  },
  async 'bad configuration'() {
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
    console.log(`port ${typeof address === 'object' ? address?.port : ''}`);
  },
};

await runMain(async (lifecycle) => {
  const behaviour = behaviours[process.argv[2] ?? ''];
  if (behaviour === undefined) throw new Error(`no behaviour ${process.argv[2]}`);
  await behaviour(lifecycle);
  console.log('serving');
});
