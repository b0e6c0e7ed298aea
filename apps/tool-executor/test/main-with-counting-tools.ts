import '@signalbox/telemetry/register';
import { runMain } from '@signalbox/lifecycle/lifecycle';
import { toolExecutor } from '../src/tool-executor.ts';

// The service as it is, with tools whose runs can be counted.
await runMain((lifecycle) => toolExecutor(lifecycle, new URL('./counting-tools.ts', import.meta.url).href));
