import { integer, loadSettings, text } from '@signalbox/config/settings';
import { runMain } from '@signalbox/lifecycle/lifecycle';
import { startMemorySimulator } from './server.ts';

/** The stand-in memory backend as a process of its own, for the compose stack and for trying things out. */
await runMain(async (lifecycle) => {
  const settings = loadSettings('memory-simulator', {
    host: text({ env: 'HOST', doc: 'Address to listen on.', default: '0.0.0.0', max: 255 }),
    port: integer({ env: 'PORT', doc: 'Port to listen on; 0 takes a free one.', default: 8091, max: 65_535 }),
  });
  const simulator = await startMemorySimulator(settings);
  lifecycle.onStop({ name: 'server', phase: 'intake', run: () => simulator.close() });
  process.stdout.write(`stand-in memory backend on ${simulator.url}\n`);
});
