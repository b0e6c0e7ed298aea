import { spawnService } from '@signalbox/testkit/service';

// Starts a service and waits to be killed.
const service = await spawnService('sample', {}, { entry: new URL('./sample-service.ts', import.meta.url) });
process.stdout.write(
  `${JSON.stringify({ event: 'sample.started', level: 'INFO', message: '', pid: service.pid })}\n`,
);
