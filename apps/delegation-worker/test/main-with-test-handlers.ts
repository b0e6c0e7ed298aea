import '@signalbox/telemetry/register';
import { runMain } from '@signalbox/lifecycle/lifecycle';
import { delegationWorker } from '../src/delegation-worker.ts';
import { testHandlers } from './test-handlers.ts';

await runMain((lifecycle) => delegationWorker(lifecycle, testHandlers));
