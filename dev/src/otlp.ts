import { integer, loadSettings, text, url } from '@signalbox/config/settings';
import { runMain } from '@signalbox/lifecycle/lifecycle';
import { startOtlpReceiver } from './otlp-receiver.ts';

/** The OTLP receiver in front of Zipkin as a process of its own, for the compose stack. */
await runMain(async (lifecycle) => {
  const settings = loadSettings('otlp', {
    host: text({ env: 'HOST', doc: 'Address to listen on.', default: '0.0.0.0', max: 255 }),
    port: integer({ env: 'PORT', doc: 'Port to listen on.', default: 4318, max: 65_535 }),
    zipkinUrl: url({
      env: 'ZIPKIN_URL',
      doc: 'Zipkin to pass spans to.',
      default: 'http://127.0.0.1:9411',
      schemes: ['http', 'https'],
    }),
  });
  const { host, port, zipkinUrl } = settings;
  const receiver = await startOtlpReceiver({ host, port, zipkinUrl: () => zipkinUrl });
  lifecycle.onStop({ name: 'receiver', phase: 'intake', run: () => receiver.close() });
  process.stdout.write(`OTLP on ${receiver.url}, to Zipkin at ${zipkinUrl}\n`);
});
