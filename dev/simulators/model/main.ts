import { integer, loadSettings, text } from '@signalbox/config/settings';
import { runMain } from '@signalbox/lifecycle/lifecycle';
import { startModelSimulator } from './server.ts';

/** The stand-in model as a process of its own, for the compose stack and for benchmarks. */
await runMain(async (lifecycle) => {
  const settings = loadSettings('model-simulator', {
    host: text({ env: 'HOST', doc: 'Address to listen on.', default: '0.0.0.0', max: 255 }),
    port: integer({ env: 'PORT', doc: 'Port to listen on; 0 takes a free one.', default: 8090, max: 65_535 }),
  });
  const simulator = await startModelSimulator(settings);
  lifecycle.onStop({ name: 'server', phase: 'intake', run: () => simulator.close() });
  process.stdout.write(`stand-in model on ${simulator.url}\n`);
});
